import type pg from 'pg'
import { errors } from './errors.js'
import { durableChannels } from './migrations/001-durable-channels.js'
import { handlers } from './migrations/002-handlers.js'

/** Each brings the schema `pgws` one version further, in one transaction; none is ever changed. */
const migrations = [durableChannels, handlers]

/** The version of the schema that this server knows. */
export const SCHEMA_VERSION = migrations.length

/** The database channel that tells of changed settings. */
export const SETTINGS_CHANNEL = 'pgws'

/** Held while migrating, so that nodes which start at once do it one after the other. Any two numbers of our own. */
const MIGRATION_LOCK = 'pg_advisory_lock(1885828979, 1)'

/**
 * Installs the schema `pgws`, or upgrades it.
 * @param client a connection that may create schemas in its database
 * @param listenChannel the database channel on which `pgws.publish` notifies
 * @returns from which version, 0 for none, to which
 * @throws SchemaTooNew where it is newer than this server
 */
export async function migrate(
  client: pg.Client,
  listenChannel: string
): Promise<{ from: number; to: number }> {
  await client.query(`select ${MIGRATION_LOCK}`)
  try {
    const from = await installedVersion(client)
    if (from > SCHEMA_VERSION) throw new errors.SchemaTooNew(from, SCHEMA_VERSION)
    for (let version = from + 1; version <= SCHEMA_VERSION; version++) {
      await client.query('begin')
      try {
        await client.query(migrations[version - 1]!)
        await client.query(
          `insert into pgws.settings (version, listen_channel) values ($1, $2)
           on conflict (only_row) do update set version = excluded.version`,
          [version, listenChannel]
        )
        await client.query('select pg_notify($1, $2)', [SETTINGS_CHANNEL, 'installed'])
        await client.query('commit')
      } catch (error) {
        await client.query('rollback')
        throw error
      }
    }
    await client.query('update pgws.settings set listen_channel = $1 where listen_channel <> $1', [
      listenChannel
    ])
    return { from, to: SCHEMA_VERSION }
  } finally {
    await client.query(`select ${MIGRATION_LOCK.replace('lock', 'unlock')}`).catch(() => {})
  }
}

async function installedVersion(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ there: boolean }>(
    "select to_regclass('pgws.settings') is not null as there"
  )
  if (!rows[0]!.there) return 0
  const { rows: settings } = await client.query<{ version: number }>('select version from pgws.settings')
  return settings[0]?.version ?? 0
}
