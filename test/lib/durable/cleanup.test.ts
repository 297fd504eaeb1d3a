import pg from 'pg'
import t, { type Test } from 'tap'
import { query } from '../../support/helper.js'
import { migratedDatabase, sharedPostgres } from '../../support/postgres.js'

const postgres = await sharedPostgres(t)

async function connect(t: Test, dbUri: string): Promise<pg.Client> {
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  return client
}

/** A database with messages that expired one after another, the last a minute ago. */
async function expired(t: Test, count: number) {
  const dbUri = await migratedDatabase(postgres)
  const sql = async <Row extends object>(text: string) => (await query(dbUri, text)).rows as Row[]
  await sql(`insert into pgws.messages (position, channel, body, expires_at)
    select n, 'a', '{}', now() - interval '1 minute' - (${count} - n) * interval '10 milliseconds'
    from generate_series(1, ${count}) n`)
  const messages = async () =>
    Number((await sql<{ count: string }>('select count(*) from pgws.messages'))[0]!.count)
  const clean = async () => (await sql<{ clean: number }>('select pgws.clean()'))[0]!.clean
  /** How many index entries and table rows a call reads; entries of deleted messages count. */
  const reads = async () => {
    const client = await connect(t, dbUri)
    const count = async () => {
      const { rows } = await client.query<{ entries: string; rows: string }>(
        `select pg_stat_get_xact_tuples_returned('pgws.messages_expires'::regclass) as entries,
          pg_stat_get_xact_tuples_returned('pgws.messages'::regclass) as rows`
      )
      return Number(rows[0]!.entries) + Number(rows[0]!.rows)
    }
    // The plan that the planner chooses with more messages.
    await client.query('begin; set local enable_seqscan = off; set local enable_bitmapscan = off')
    const before = await count()
    await client.query('select pgws.clean()')
    const read = (await count()) - before
    await client.query('commit')
    return read
  }
  return { dbUri, sql, messages, clean, reads }
}

t.test('deletes expired messages at the same cost while an old transaction stays open', async (t) => {
  const { dbUri, messages, clean, reads } = await expired(t, 20_000)
  const idle = await connect(t, dbUri)
  await idle.query('begin isolation level repeatable read; select count(*) from pgws.messages')
  while ((await clean()) > 0);
  t.equal(await messages(), 0)
  const { rows } = await idle.query('select count(*) from pgws.messages')
  t.same(rows, [{ count: '20000' }], 'the old transaction still sees the deleted messages')
  const read = await reads()
  t.ok(read <= 501, `${read} were read`)
})

t.test('does not read messages that have not expired to find those that have', async (t) => {
  const { sql, messages, clean, reads } = await expired(t, 10)
  await sql(`insert into pgws.messages (position, channel, body, expires_at)
    select n, 'a', '{}', now() + interval '1 hour' from generate_series(101, 20100) n`)
  t.equal(await clean(), 10)
  const read = await reads()
  t.ok(read <= 10, `${read} were read`)
  t.equal(await messages(), 20_000)
})

t.test('deletes messages that had already expired at the previous search', async (t) => {
  const { sql, messages, clean } = await expired(t, 10)
  t.equal(await clean(), 10)
  await sql(`insert into pgws.messages (position, channel, body, expires_at)
    values (20, 'a', '{}', now() - interval '1 day'), (21, 'a', '{}', now() - interval '1 second')`)
  t.equal(await clean(), 1)
  t.equal(await messages(), 1)
  await sql(`update pgws.cleaning set swept_at = swept_at - interval '11 minutes'`)
  t.equal(await clean(), 1)
  t.equal(await messages(), 0)

  // A shorter retention applies to messages that are already stored.
  await sql(`insert into pgws.messages (position, channel, body, created_at, expires_at)
    values (22, 'a', '{}', now() - interval '1 day', now() + interval '1 hour')`)
  t.equal(await clean(), 0)
  await sql(`select pgws.retain('a', '1 hour')`)
  t.equal(await clean(), 1)
})
