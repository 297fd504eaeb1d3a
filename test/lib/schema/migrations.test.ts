import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrate, SCHEMA_VERSION } from '../../../lib/schema/migrate.js'
import { readMigrations } from '../../../lib/schema/migrations.js'
import { LISTEN_CHANNEL, query, sqlListener, until, withPostgres } from '../../support/helper.js'
import { createDatabase } from '../../support/postgres.js'

const { postgres } = await withPostgres(t)
const migrations = readMigrations()

/** A connection that ends with the test. */
async function connected(t: Test, dbUri: string): Promise<pg.Client> {
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  return client
}

t.test('upgrades a database of the first two migrations, and old servers still work with it', async (t) => {
  const dbUri = await createDatabase(postgres)
  // Installed as the server that knew only these did.
  for (const { sql } of migrations.slice(0, 2)) await query(dbUri, sql)
  await query(dbUri, 'insert into pgws.settings (version, listen_channel) values (2, $1)', [LISTEN_CHANNEL])

  const clients = await Promise.all(Array.from({ length: 4 }, () => connected(t, dbUri)))
  const results = await Promise.all(clients.map((client) => migrate(client, LISTEN_CHANNEL)))
  t.same(
    results.map(({ from }) => from).sort((a, b) => a - b),
    [2, ...Array(3).fill(SCHEMA_VERSION)]
  )

  const { rows } = await query(
    dbUri,
    'select number, name, oldest_server from pgws.migrations order by number'
  )
  t.same(
    rows,
    migrations.map(({ number, name, oldestServer }) => ({ number, name, oldest_server: oldestServer }))
  )
  const [settings] = (await query(dbUri, 'select version from pgws.settings')).rows
  t.same(settings, { version: migrations.at(-1)!.oldestServer })
})

t.test('does not change a schema that has more additive migrations than the server knows', async (t) => {
  const client = await connected(t, await createDatabase(postgres))
  await migrate(client, LISTEN_CHANNEL)
  const newer = SCHEMA_VERSION + 1
  await client.query("insert into pgws.migrations values ($1, 'newer', default, 2)", [newer])
  t.same(await migrate(client, LISTEN_CHANNEL), { from: newer, to: newer })
})

t.test('advisory locks of other sessions do not delay a migration', async (t) => {
  const dbUri = await createDatabase(postgres)
  const stranger = await connected(t, dbUri)
  await stranger.query('select pg_advisory_lock(1885828979, 1)')
  t.same(await migrate(await connected(t, dbUri), LISTEN_CHANNEL), { from: 0, to: SCHEMA_VERSION })
})

t.test('migration files are numbered without gaps, and name the oldest server that works with them', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-migrations-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const write = (file: string, text = '') => writeFileSync(join(folder, file), text)
  const read = () => readMigrations(pathToFileURL(`${folder}/`))
  write('001-one.sql')
  write('002-two.sql')
  write('003-three.sql')
  write('004-four.sql', '-- Not additive.\n-- oldest server: 4\n')
  write('005-five.sql')
  t.same(
    read().map(({ oldestServer }) => oldestServer),
    [1, 2, 2, 4, 4]
  )
  write('005-again.sql')
  t.throws(read, { message: /005-five\.sql: expected the number 006/ })
  t.end()
})

t.test('after the upgrade, only the owner of a watched table can still watch it', async (t) => {
  const dbUri = await createDatabase(postgres)
  for (const { sql } of migrations.slice(0, 2)) await query(dbUri, sql)
  await query(dbUri, 'insert into pgws.settings (version, listen_channel) values (2, $1)', [LISTEN_CHANNEL])
  const as = (name: string) => dbUri.replace('//postgres@', `//${name}@`)
  for (const name of ['watching', 'stranger']) {
    await query(dbUri, `create role ${name} login; create schema ${name} authorization ${name}`)
    await query(as(name), `create table ${name}.one (id int); create table ${name}.two (id int)`)
  }
  await query(as('watching'), "select pgws.watch('watching.one', 'one')")

  await migrate(await connected(t, dbUri), LISTEN_CHANNEL)
  const heard = await sqlListener(t, dbUri)
  await query(as('watching'), "select pgws.watch('watching.two', 'two')")
  await query(as('watching'), 'insert into watching.one values (1)')
  await query(as('watching'), 'insert into watching.two values (2)')
  await until(() => heard.payloads.length === 2)
  for (const statement of [
    "select pgws.watch('stranger.one', 'one')",
    "create trigger own after insert on stranger.one for each row execute function pgws.tell('one', 'null')"
  ]) {
    await t.rejects(query(as('stranger'), statement), { code: '42501' })
  }
})

t.test('advisory locks of other sessions do not prevent the deletion of old messages', async (t) => {
  const dbUri = await createDatabase(postgres)
  await migrate(await connected(t, dbUri), LISTEN_CHANNEL)
  await query(dbUri, "select pgws.retain('a', '1 microsecond'); select pgws.publish('a', '1')")
  const stranger = await connected(t, dbUri)
  await stranger.query("select pg_advisory_lock(hashtext('pgws.clean'), 0)")
  t.equal((await query(dbUri, 'select pgws.clean() as removed')).rows[0].removed, 1)

  // It still runs in one session at a time.
  const first = await connected(t, dbUri)
  await first.query('begin; select pgws.clean()')
  t.equal((await query(dbUri, 'select pgws.clean() as removed')).rows[0].removed, null)
  await first.query('commit')
  t.equal((await query(dbUri, 'select pgws.clean() as removed')).rows[0].removed, 0)
})
