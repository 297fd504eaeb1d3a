import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import type { EmbeddedPostgres } from '../../lib/embedded-postgres/server.js'
import { query, until } from './helper.js'

/** Creates a role that logs in with the password `right` and no other. */
export async function guardedRole(postgres: EmbeddedPostgres, name: string): Promise<void> {
  const hba = join(postgres.dataFolder, 'pg_hba.conf')
  await query(postgres.uri, `create role ${name} login password 'right'`)
  writeFileSync(hba, `local all ${name} scram-sha-256\n${readFileSync(hba, 'utf8')}`)
  await query(postgres.uri, 'select pg_reload_conf()')
  // The reload takes some time.
  await until(() => {
    const client = new pg.Client(postgres.uri.replace('postgres@', `${name}:wrong@`))
    return client.connect().then(
      () => client.end().then(() => false),
      () => true
    )
  })
}
