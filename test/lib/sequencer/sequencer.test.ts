import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { Health } from '../../../index.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import { build, type Client, open, query, token, until, withPostgres } from '../../support/helper.js'

const { migrated, postgres } = await withPostgres(t)
const reader = token({ mode: 'r' })
const rw = token({ mode: 'rw' })

const payloads = ({ messages }: Client) => messages.map((text) => JSON.parse(text).payload as string)

async function connected(test: Test, dbUri: string): Promise<pg.Client> {
  const client = new pg.Client(dbUri)
  client.on('error', () => {})
  await client.connect()
  test.teardown(() => client.end().catch(() => {}))
  return client
}

/** The node that is the sequencer according to the database. */
const leader = async (dbUri: string) =>
  (await query(dbUri, 'select node, term::int from pgws.sequencer')).rows[0]

/** Publishes in every way. */
const publishing = `select pgws.publish_text('kept', 'a text'), pgws.publish_text('free', 'a text'),
  pgws.publish('kept', '{}'), pgws.publish_bytes('kept', '\\x00'), pgws.publish_text('kept', repeat('x', 9000))`

t.test('publishing locks nothing but its own rows', async (t) => {
  const dbUri = await migrated('kept')
  await build(t, { dbUri })
  await query(dbUri, `create table watched (n integer); select pgws.watch('watched', 'kept')`)
  const writer = await connected(t, dbUri)
  await until(async () => (await leader(dbUri)).node !== null)
  await writer.query('begin')
  await writer.query(publishing)
  await writer.query('insert into watched values (1)')
  const { rows } = await writer.query(
    `select distinct l.locktype, l.mode, l.relation::regclass::text as relation from pg_locks l
     where l.pid = pg_backend_pid() and l.mode not in ('AccessShareLock', 'RowExclusiveLock')
       and not (l.locktype in ('virtualxid', 'transactionid'))`
  )
  t.same(rows, [])
  await writer.query('commit')
})

t.test(
  'all clients receive overlapping transactions in one order, each as a whole, and after what it has seen',
  async (t) => {
    const dbUri = await migrated('kept')
    const nodes = await Promise.all([1, 2].map(() => build(t, { dbUri })))
    await query(dbUri, 'create table counter (n integer not null); insert into counter values (0)')
    const clients = await Promise.all(
      nodes.flatMap(({ ws }) => [open(t, `${ws}/kept/${reader}`), open(t, `${ws}/free/${reader}`)])
    )
    let over = false
    const killing = (async () => {
      while (!over) {
        await sleep(60)
        await query(
          dbUri,
          `select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'fastify-pg-websockets sequencer'`
        )
      }
    })()
    const committed: string[] = []
    await Promise.all(
      Array.from({ length: 8 }, async (_, writer) => {
        const client = await connected(t, dbUri)
        for (let i = 0; i < 25; i++) {
          const messages: string[] = []
          await client.query('begin')
          if (i % 3 === 0) {
            // A message before the lock, so that the transaction begins earlier than those whose commits it will see.
            messages.push(`${writer}.${i} early`)
            await client.query('select pgws.publish_text(c, $1) from unnest($2::text[]) c', [
              messages[0],
              ['kept', 'free']
            ])
            await sleep(Math.random() * 10)
          }
          const { rows } = await client.query('update counter set n = n + 1 returning n')
          messages.push(`${writer}.${i} counted ${rows[0].n}`)
          await client.query('select pgws.publish_text(c, $1) from unnest($2::text[]) c', [
            messages.at(-1),
            ['kept', 'free']
          ])
          await client.query('savepoint s')
          await client.query(`select pgws.publish_text('kept', 'rolled back')`)
          await client.query('rollback to s')
          const aborts = i % 7 === 6
          await client.query(aborts ? 'rollback' : 'commit')
          if (!aborts) committed.push(...messages)
        }
      })
    )
    over = true
    await killing
    for (const client of clients) {
      await client.received(committed.length)
      const got = payloads(client)
      t.same([...got].sort(), [...committed].sort(), 'each once')
      t.same(got, payloads(clients[0]!), 'in the same order for all')
      const counts = got.flatMap((text) => /counted (\d+)/.exec(text)?.[1] ?? []).map(Number)
      t.same(
        counts,
        [...counts].sort((a, b) => a - b),
        'in the order of the updates'
      )
      for (const [index, text] of got.entries()) {
        if (text.endsWith('early'))
          t.ok(got[index + 1]!.startsWith(`${text.split(' ')[0]} counted`), 'together')
      }
    }
  }
)

t.test('announces what was committed while earlier messages waited for the next round', async (t) => {
  const dbUri = await migrated('kept')
  await query(dbUri, `select pgws.lead('the test', '1 hour')`)
  // More than one round announces, in two transactions.
  for (const _ of [1, 2]) {
    await query(dbUri, `select pgws.publish_text('free', n::text) from generate_series(1, 15000) n`)
  }
  t.same((await query(dbUri, 'select announced, more from pgws.round(null)')).rows, [
    { announced: 15_000, more: true }
  ])
  await query(dbUri, `select pgws.publish_text('kept', 'committed')`)
  t.same((await query(dbUri, 'select pgws.catch_up() as announced')).rows, [{ announced: 15_001 }])
  t.equal((await query(dbUri, `select from pgws.history('kept', null, 10)`)).rowCount, 1)
})

t.test('messages of clients come after what was committed before', async (t) => {
  const dbUri = await migrated('kept')
  const { ws, fastify } = await build(t, { dbUri })
  for (const channel of ['kept', 'free']) {
    const client = await open(t, `${ws}/${channel}/${rw}`)
    const sent: string[] = []
    for (let i = 0; i < 30; i++) {
      await query(dbUri, 'select pgws.publish_text($1, $2)', [channel, `sql ${i}`])
      await fastify.pgws.publish(channel, `server ${i}`)
      sent.push(`sql ${i}`, `server ${i}`)
    }
    await client.received(sent.length)
    t.same(payloads(client), sent)
  }
})

t.test(
  'another node takes over at once when the sequencer ends, and after a while when it is disconnected',
  async (t) => {
    const dbUri = await migrated('kept')
    const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
    const nodeTimeout = 1000
    const first = await build(t, { dbUri, nodeTimeout: 60_000 })
    await until(async () => (await leader(dbUri)).node !== null)
    const { node: firstNode, term } = await leader(dbUri)
    const second = await build(t, {
      dbUri: proxy.uri(dbUri),
      nodeTimeout,
      checkListenerInterval: 200,
      retries: 1000
    })
    await until(() => second.fastify.pgws.listenerState.up)
    const third = await build(t, { dbUri, nodeTimeout })
    const client = await open(t, `${third.ws}/kept/${reader}`)
    // Its lease is valid for another half minute.
    await first.fastify.close()
    await query(dbUri, `select pgws.publish_text('kept', 'after its end')`)
    await client.received(1)
    const { node: successor, term: nextTerm } = await leader(dbUri)
    t.not(successor, firstNode)
    // Greater by more than one if the machine was so busy that the successor lost its lease, too.
    t.ok(nextTerm > term)
    // Whichever node it is, only the third one can reach the database.
    proxy.silence()
    proxy.mode = 'silence'
    await query(dbUri, `select pgws.publish_text('kept', 'while one is cut off')`)
    await client.received(2)
    t.ok((await leader(dbUri)).term >= nextTerm)
    // A former sequencer finds its successor, and does nothing.
    proxy.mode = 'pass'
    proxy.cut()
    await query(dbUri, `select pgws.publish_text('kept', 'after its return')`)
    await client.received(3)
    t.same(payloads(client), ['after its end', 'while one is cut off', 'after its return'])
    const stale = await query(dbUri, 'select announced from pgws.sequence($1, $2, false)', [firstNode, term])
    t.same(stale.rows, [{ announced: null }])
  }
)

t.test('delivers what was published while no server ran, unless it is too old', async (t) => {
  const dbUri = await migrated('kept')
  const { fastify } = await build(t, { dbUri })
  await until(async () => (await leader(dbUri)).node !== null)
  await fastify.close()
  await query(dbUri, `select pgws.publish_text(c, 'old') from unnest('{kept,free}'::text[]) c`)
  for (const n of [0, 1, 2]) {
    await query(dbUri, `update pgws.outbox_${n} set published_at = published_at - interval '90 seconds'`)
  }
  await query(dbUri, `update pgws.sequencer set until = until - interval '2 minutes'`)
  await query(dbUri, `select pgws.publish_text(c, 'fresh') from unnest('{kept,free}'::text[]) c`)
  const { ws } = await build(t, { dbUri })
  const kept = await open(t, `${ws}/kept/${reader}?since=earliest`)
  await kept.received(2)
  t.same(payloads(kept), ['old', 'fresh'])
  const { rows } = await query(dbUri, 'select count(*)::int as n from pgws.large')
  t.same(rows, [{ n: 0 }])
})

t.test('delivers equal messages of two transactions both', async (t) => {
  const dbUri = await migrated('kept')
  const { ws } = await build(t, { dbUri })
  await until(async () => (await leader(dbUri)).node !== null)
  const client = await open(t, `${ws}/free/${reader}`)
  const body = JSON.stringify({ event: 'Message', channel: 'free', payload: 'equal' })
  // As if two writers published within one microsecond.
  const [a, b] = [await connected(t, dbUri), await connected(t, dbUri)]
  for (const writer of [a, b]) {
    await writer.query('begin')
    await writer.query('select pgws.send($1, $2)', ['free', body])
  }
  await Promise.all([a.query('commit'), b.query('commit')])
  await client.received(2)
  t.same(payloads(client), ['equal', 'equal'])
})

t.test('several rounds announce in order, and never split a transaction', async (t) => {
  const dbUri = await migrated('kept')
  const { fastify } = await build(t, { dbUri })
  await until(async () => (await leader(dbUri)).node !== null)
  await fastify.close()
  const writer = await connected(t, dbUri)
  await writer.query(`select pgws.publish_text('kept', 'first ' || n) from generate_series(1, 25000) n`)
  await writer.query(
    `do $$ begin for i in 1 .. 5000 loop perform pgws.publish_text('kept', 'single ' || i); commit; end loop; end $$`
  )
  await writer.query(`select pgws.publish_text('kept', 'last ' || n) from generate_series(1, 21000) n`)
  await build(t, { dbUri })
  await until(
    async () => (await query(dbUri, 'select count(*)::int as n from pgws.messages')).rows[0].n === 51_000
  )
  const { rows } = await query(
    dbUri,
    `select body::json ->> 'payload' as payload from pgws.messages order by position`
  )
  const expected = [
    ...Array.from({ length: 25_000 }, (_, i) => `first ${i + 1}`),
    ...Array.from({ length: 5000 }, (_, i) => `single ${i + 1}`),
    ...Array.from({ length: 21_000 }, (_, i) => `last ${i + 1}`)
  ]
  t.ok(rows.every(({ payload }, i) => payload === expected[i]))
})

t.test(
  'an open transaction delays nobody, and its own messages are delivered after its commit',
  async (t) => {
    const dbUri = await migrated('kept')
    const { ws } = await build(t, { dbUri })
    await until(async () => (await leader(dbUri)).node !== null)
    const client = await open(t, `${ws}/kept/${reader}`)
    const idle = await connected(t, dbUri)
    await idle.query(`begin; select pgws.publish_text('kept', 'of the long one')`)
    const others = Array.from({ length: 300 }, (_, i) => `${i}`)
    const writer = await connected(t, dbUri)
    for (const text of others) await writer.query(`select pgws.publish_text('kept', $1)`, [text])
    await client.received(300)
    // Long enough that the sequencer goes to sleep.
    await sleep(200)
    await idle.query('commit')
    await client.received(301)
    t.same(payloads(client), [...others, 'of the long one'])
  }
)

t.test('empties the outbox, without waiting for a session that has locked one of its tables', async (t) => {
  const dbUri = await migrated('kept')
  const { ws, http } = await build(t, { dbUri })
  await until(async () => (await leader(dbUri)).node !== null)
  const client = await open(t, `${ws}/kept/${reader}`)
  const outbox = async () => ((await (await fetch(`${http}/health`)).json()) as Health).outbox
  const sizes = async () => {
    const { rows } = await query(
      dbUri,
      `select n, pg_relation_size('pgws.outbox_' || n)::int as bytes from generate_series(0, 2) n order by n`
    )
    return rows.map(({ bytes }) => bytes as number)
  }
  let sent = 0
  const publish = async (count: number) => {
    await query(
      dbUri,
      `select pgws.publish_text('kept', (select string_agg(md5(random()::text || g || n), '') from generate_series(1, 60) g))
       from generate_series(1, $1) n`,
      [count]
    )
    sent += count
    await client.received(sent)
  }
  // More than 8 MiB.
  await publish(5000)
  await publish(1)
  await until(async () => (await sizes()).filter((bytes) => bytes > 0).length <= 1)
  // pg_dump reads all tables in one transaction.
  const dump = await connected(t, dbUri)
  await dump.query('begin isolation level repeatable read read only')
  await dump.query('lock table pgws.outbox_0, pgws.outbox_1, pgws.outbox_2, pgws.rounds in access share mode')
  for (let i = 0; i < 40; i++) await publish(200)
  await until(async () => (await outbox()).blocked > 0)
  await publish(1)
  await dump.query('commit')
  await until(async () => (await outbox()).blocked === 0)
  await publish(1)
  await until(async () => (await sizes()).filter((bytes) => bytes > 0).length <= 1)
  t.equal(new Set(client.messages.map((text) => JSON.parse(text).id)).size, sent)
})

t.test('notices that transaction ids begin again, as after a restore: old ids become gaps', async (t) => {
  const dbUri = await migrated('kept')
  const { ws, fastify } = await build(t, { dbUri })
  await until(async () => (await leader(dbUri)).node !== null)
  const client = await open(t, `${ws}/kept/${reader}`)
  await query(dbUri, `select pgws.publish_text('kept', 'before')`)
  await client.received(1)
  const { id } = JSON.parse(client.messages[0]!)
  await fastify.close()
  // What a dump of a server with greater transaction ids restores: a row that was announced, and one that was not.
  await query(
    dbUri,
    `insert into pgws.rounds (snapshot) values ('900000000:900000000:');
     insert into pgws.outbox_0 (transaction, channel, body, published_at) values
       ('800000000', 'kept', '{"channel":"kept","payload":"announced"}', clock_timestamp() - interval '1 minute'),
       ('900000001', 'kept', '{"channel":"kept","payload":"not announced"}', clock_timestamp() - interval '1 minute')`
  )
  await query(dbUri, `select pgws.publish_text('kept', 'after the restore')`)
  const again = await build(t, { dbUri })
  const kept = await open(t, `${again.ws}/kept/${reader}?since=earliest`)
  await kept.received(3)
  t.same(payloads(kept).slice(0, 3), ['before', 'not announced', 'after the restore'])
  await query(dbUri, `select pgws.publish_text('kept', 'later')`)
  await kept.received(4)
  const late = await open(t, `${again.ws}/kept/${reader}?since=${id}`)
  t.match(JSON.parse((await late.received(1))[0]!), { event: 'HistoryGap' })
})

t.test('serializable transactions that publish do not conflict', async (t) => {
  const dbUri = await migrated('kept')
  const { ws } = await build(t, { dbUri })
  await until(async () => (await leader(dbUri)).node !== null)
  const client = await open(t, `${ws}/kept/${reader}`)
  const failures: string[] = []
  await Promise.all(
    [0, 1, 2, 3].map(async (writer) => {
      const connection = await connected(t, dbUri)
      for (let i = 0; i < 60; i++) {
        await connection.query('begin isolation level serializable')
        await connection.query(`select pgws.publish_text('kept', $1)`, [`${writer} ${i}`])
        await sleep(1)
        await connection.query('commit').catch((error: pg.DatabaseError) => failures.push(error.code!))
      }
    })
  )
  t.same(failures, [])
  await client.received(240)
})

t.test(
  'a role without rights on pgws can write to a watched table, with COPY and in a deferred trigger',
  async (t) => {
    const dbUri = await migrated('kept')
    const { ws } = await build(t, { dbUri })
    await until(async () => (await leader(dbUri)).node !== null)
    const role = `writer_${process.pid}`
    await query(dbUri, `create role ${role} login`)
    t.teardown(() => query(dbUri, `drop owned by ${role}; drop role ${role}`))
    await query(
      dbUri,
      `create table watched (n integer); select pgws.watch('watched', 'kept');
     create table plain (n integer); grant insert on watched, plain to ${role};
     create function later() returns trigger language plpgsql security definer as $$ begin
       perform pgws.publish_text('kept', 'deferred ' || new.n); return null; end $$;
     create constraint trigger later after insert on plain deferrable initially deferred for each row execute function later()`
    )
    const client = await open(t, `${ws}/kept/${reader}`)
    const writer = await connected(t, dbUri.replace(/\/\/[^@/]*@/, `//${role}@`))
    await writer.query(
      'begin; insert into plain values (1); insert into watched select generate_series(1, 3); commit'
    )
    await client.received(4)
    const got = client.messages.map((text) => JSON.parse(text).payload)
    t.same(
      got.slice(0, 3).map(({ record }) => record.n),
      [1, 2, 3]
    )
    t.equal(got[3], 'deferred 1')
  }
)

t.test('a round without an answer does not delay the end of the server', async (t) => {
  const dbUri = await migrated('kept')
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { fastify } = await build(t, { dbUri: proxy.uri(dbUri), shutdownTimeout: 1000 })
  await until(async () => (await leader(dbUri)).node !== null)
  proxy.silence()
  proxy.mode = 'silence'
  // The sequencer runs a round at least once a second.
  await sleep(1500)
  // One of its statements may take two minutes. The test's deadline is shorter.
  await fastify.close()
  t.pass('closed')
})
