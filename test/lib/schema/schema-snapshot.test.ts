import { readFileSync, writeFileSync } from 'node:fs'
import pg from 'pg'
import t, { type Test } from 'tap'
import { install, withPostgres } from '../../support/helper.js'
import { SNAPSHOT, schemaSnapshot } from '../../support/schema-snapshot.js'

const { database } = await withPostgres(t)

async function connected(t: Test, dbUri: string): Promise<pg.Client> {
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  return client
}

t.test('the migrations make the schema of lib/schema/schema.sql', async (t) => {
  const dbUri = await database()
  await install(dbUri)
  const made = await schemaSnapshot(await connected(t, dbUri))
  // npm run schema:snapshot
  if (process.env.PGWS_WRITE_SCHEMA === '1') writeFileSync(SNAPSHOT, made)
  t.equal(made, readFileSync(SNAPSHOT, 'utf8'), 'as after "npm run schema:snapshot"')
  t.notMatch(made, /^-- not understood/m)
})

t.test('the snapshot is complete: running it makes the same schema', async (t) => {
  const snapshot = readFileSync(SNAPSHOT, 'utf8')
  const client = await connected(t, await database())
  await client.query(snapshot)
  t.equal(await schemaSnapshot(client), snapshot)
})

t.test('a snapshot shows each kind of change', async (t) => {
  const dbUri = await database()
  await install(dbUri)
  const client = await connected(t, dbUri)
  const before = await schemaSnapshot(client)
  for (const change of [
    'create view pgws.shown as select 1 as one',
    "create type pgws.kind as enum ('a')",
    'create domain pgws.small as int check (value < 9)',
    'alter table pgws.retention add column note text collate "C" not null default $$a$$',
    'alter table pgws.retention add check (pattern <> $$a$$)',
    'alter table pgws.retention set (fillfactor = 50)',
    'alter table pgws.retention enable row level security; create policy own on pgws.retention using (true)',
    'create index on pgws.messages (created_at)',
    'alter sequence pgws.positions cache 10',
    'alter function pgws.clean set search_path = public',
    'alter function pgws.clean security invoker cost 5',
    'alter table pgws.flushes disable trigger flush',
    'grant select on pgws.messages to public',
    'grant select (channel) on pgws.messages to public',
    'grant execute on function pgws.clean to public',
    'revoke usage on schema pgws from public',
    "comment on column pgws.messages.channel is 'its name'",
    "comment on function pgws.clean is 'another'"
  ]) {
    await client.query(`begin; ${change}`)
    t.not(await schemaSnapshot(client), before, change)
    await client.query('rollback')
  }
  t.equal(await schemaSnapshot(client), before)
})
