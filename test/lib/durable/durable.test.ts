import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrate, SCHEMA_VERSION } from '../../../lib/schema/migrate.js'
import {
  build,
  type Client,
  LISTEN_CHANNEL,
  open,
  query,
  refusal,
  sqlListener,
  token,
  until
} from '../../support/helper.js'
import { createDatabase, migratedDatabase, sharedPostgres } from '../../support/postgres.js'

const postgres = await sharedPostgres(t)
const reader = token({ mode: 'r' })
const writer = token({ mode: 'w' })

/** A database with the schema, and a server on it. */
async function durable(t: Test, options: object = {}) {
  const dbUri = await migratedDatabase(postgres)
  const app = await build(t, { dbUri, checkListenerInterval: 500, ...options })
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  return { ...app, dbUri, sql }
}

const payloads = ({ messages }: Client) => messages.map((text) => JSON.parse(text).payload)
const ids = ({ messages }: Client) => messages.map((text) => JSON.parse(text).id)

t.test('migrates once when several nodes start together, and refuses a newer schema', async (t) => {
  const dbUri = await createDatabase(postgres)
  const clients = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const client = new pg.Client(dbUri)
      await client.connect()
      return client
    })
  )
  const results = await Promise.all(clients.map((client) => migrate(client, LISTEN_CHANNEL)))
  t.same(results.map(({ from }) => from).sort(), [0, ...Array(4).fill(SCHEMA_VERSION)])
  await clients[0]!.query('update pgws.settings set version = 99')
  await t.rejects(migrate(clients[0]!, LISTEN_CHANNEL), { code: 'FST_PGWS_SCHEMA_TOO_NEW' })
  for (const client of clients) await client.end()
  for (const migrates of [true, false]) {
    await t.rejects(build(t, { dbUri, migrate: migrates, checkListenerInterval: 500 }), {
      code: 'FST_PGWS_SCHEMA_TOO_NEW',
      message: /has version 99/
    })
  }
})

t.test('without the schema all else works, and features that need it say how to install it', async (t) => {
  const dbUri = await createDatabase(postgres)
  const { ws, http } = await build(t, { dbUri })
  const sender = await open(t, `${ws}/a/${writer}`)
  sender.send('x'.repeat(8000))
  t.equal((await sender.closed()).code, 1009)
  const refused = await refusal(t, `${ws}/a/${reader}?since=earliest`)
  t.equal(refused.status, 501)
  t.match(refused.answer, /npx fastify-pg-websockets migrate/)
  const history = await fetch(`${http}/channels/a/history`, {
    headers: { authorization: `Bearer ${reader}` }
  })
  t.equal(history.status, 501)
})

t.test('pgws.publish delivers if and only if it commits, and inline as before', async (t) => {
  const { ws, dbUri, sql } = await durable(t)
  const { payloads: seen } = await sqlListener(t, dbUri)
  const client = await open(t, `${ws}/a/${reader}`)
  await sql(`select pgws.publish('a', '{"n": 1}')`)
  await sql(`begin; select pgws.publish('a', '2'); rollback`)
  await sql(`select pgws.publish_text('a', 'three "quoted"', 'Greeting')`)
  await sql(`select pgws.publish_text('a', 'same'), pgws.publish_text('a', 'same')`)
  await client.received(4)
  t.same(payloads(client), [{ n: 1 }, 'three "quoted"', 'same', 'same'])
  t.match(JSON.parse(client.messages[1]!), {
    event: 'Greeting',
    channel: 'a',
    claims: { message_delivered_at: Number }
  })
  await until(() => seen.length === 4)
  t.same(seen, client.messages)
  await sql('select pgws.publish(null, null), pgws.publish_text(null, null), pgws.publish_bytes(null, null)')
  await sql(`select pgws.publish('a', null), pgws.publish_text('a', null), pgws.publish_bytes('a', null)`)
  await client.received(7)
})

t.test('delivers messages of any size in order, and reads each row once', async (t) => {
  for (const retained of [false, true]) {
    const { ws, sql, http } = await durable(t)
    if (retained) await sql(`select pgws.retain('a', '1 hour')`)
    const clients = await Promise.all(
      Array.from({ length: 5 }, () => open(t, `${ws}/a/${reader}`, { maxPayload: 64 * 1024 * 1024 }))
    )
    const sender = await open(t, `${ws}/a/${token({ mode: 'w' })}`)
    for (let i = 0; i < 10; i++) {
      await sql(`select pgws.publish_text('a', repeat($1, 200000)), pgws.publish_text('a', $1)`, [String(i)])
    }
    sender.send('y'.repeat(100_000))
    sender.send('small')
    await fetch(`${http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${writer}`, 'content-type': 'application/json' },
      body: JSON.stringify([
        { channel: 'a', payload: 'z'.repeat(500_000) },
        { channel: 'a', payload: 'end' }
      ])
    })
    const expected = [
      ...Array.from({ length: 10 }, (_, i) => [String(i).repeat(200_000), String(i)]).flat(),
      'y'.repeat(100_000),
      'small',
      'z'.repeat(500_000),
      'end'
    ]
    for (const client of clients) {
      await client.received(24)
      t.ok(JSON.stringify(payloads(client)) === JSON.stringify(expected), `order, retained ${retained}`)
    }
    await sql(`select pgws.publish_text('a', repeat('m', 16 * 1024 * 1024))`)
    await clients[0]!.received(25)
    t.equal(payloads(clients[0]!)[24].length, 16 * 1024 * 1024)
    await sql(`select pgws.publish_text('a', repeat('m', 65 * 1024 * 1024))`)
    await clients[0]!.received(26)
    t.match(JSON.parse(clients[0]!.messages[25]!), { event: 'TooLarge', payload: { limit: 67108864 } })
  }
})

t.test('a durable channel has growing ids, replays what a client missed, and continues live', async (t) => {
  const { ws, sql, fastify } = await durable(t)
  await sql(`select pgws.retain('room:*', '1 hour')`)
  const first = await open(t, `${ws}/room:1/${reader}`)
  await sql(`select pgws.publish_text('room:1', n::text) from generate_series(1, 5) n`)
  await fastify.pgws.publish('room:1', '6')
  await first.received(6)
  t.same(payloads(first), ['1', '2', '3', '4', '5', '6'])
  t.same(ids(first), [...ids(first)].sort())
  t.equal(new Set(ids(first)).size, 6)
  await sql(`select pgws.publish_text('room:1', '7'), pgws.publish_text('room:2', 'other')`)
  await first.received(7)

  const since = await open(t, `${ws}/room:1/${reader}?since=${ids(first)[2]}`)
  const earliest = await open(t, `${ws}/room:1/${reader}?since=earliest`)
  const live = await open(t, `${ws}/room:1/${reader}`)
  const both = await open(
    t,
    `${ws}/${token({ mode: 'r', channels: ['room:1', 'room:2', 'plain'] })}?since=${ids(first)[5]}`
  )
  await both.received(2)
  await sql(`select pgws.publish_text('room:1', '8')`)
  await sql(`select pgws.publish_text('plain', 'not durable')`)
  await earliest.received(8)
  await since.received(5)
  await live.received(1)
  await both.received(4)
  t.same(since.messages, earliest.messages.slice(3))
  t.same(payloads(earliest), ['1', '2', '3', '4', '5', '6', '7', '8'])
  t.same(payloads(live), ['8'])
  t.same(payloads(both), ['7', 'other', '8', 'not durable'])
  // A replayed message is the same text as the live one.
  t.same(earliest.messages.slice(0, 7), first.messages.slice(0, 7))
})

t.test('reports a history gap for messages that cannot be replayed, and continues live', async (t) => {
  const { ws, sql, fastify } = await durable(t)
  await sql(`select pgws.retain('a', '1 hour', 3)`)
  const client = await open(t, `${ws}/a/${reader}`)
  await sql(`select pgws.publish_text('a', n::text) from generate_series(1, 10) n`)
  await client.received(10)
  const all = ids(client)
  await until(async () => (await sql('select pgws.clean()')).rows[0].clean === 0)
  const gap = async (since: string, oldest: string, latest: string) => {
    const late = await open(t, `${ws}/a/${reader}?since=${since}`)
    await late.received(1)
    await fastify.pgws.publish('a', `after ${since}`)
    await late.received(2)
    t.same(JSON.parse(late.messages[0]!), {
      pgws: true,
      event: 'HistoryGap',
      channel: 'a',
      payload: { requested: since, oldest, latest }
    })
    t.equal(JSON.parse(late.messages[1]!).payload, `after ${since}`)
    late.webSocket.terminate()
  }
  await gap(all[2], all[7], all[9])
  const epoch = all[0].slice(0, 8)
  const { rows } = await sql(`select max(position)::int as latest from pgws.messages`)
  const latestId = `${epoch}-${rows[0].latest.toString(16).padStart(16, '0')}`
  await gap('nonsense', all[7], latestId)
  // Stored messages are replayed without a gap.
  const there = await open(t, `${ws}/a/${reader}?since=${all[6]}`)
  await there.received(3)
  t.same(ids(there).slice(0, 3), all.slice(7))
  const beyond = `${epoch}-00000000ffffffff`
  const future = await open(t, `${ws}/a/${reader}?since=${beyond}`)
  t.match(await future.received(1), [/HistoryGap/])
  await sql('select pgws.new_epoch()')
  // Until the server has noticed the new epoch, the old id is still valid.
  let foreign: Client
  await until(async () => {
    foreign = await open(t, `${ws}/a/${reader}?since=${all[9]}`)
    await sql(`select pgws.publish_text('a', 'new epoch')`)
    return (await foreign.received(1))[0]!.includes('HistoryGap')
  })
  await sql(`select pgws.publish_text('a', 'new epoch')`)
  await foreign!.received(2)
  t.ok(ids(foreign!)[1] > all[9])
})

t.test('a client that reads slowly while it resumes is not closed as a slow client', async (t) => {
  const { ws, sql, fastify } = await durable(t, { maxBufferedBytes: 10_000 })
  await sql(`select pgws.retain('a', '1 hour')`)
  // More than the socket buffers of both operating systems hold.
  await sql(`select pgws.publish_text('a', repeat('x', 20000) || n) from generate_series(1, 1000) n`)
  await sql('select pgws.catch_up()')
  const slow = await open(t, `${ws}/a/${reader}?since=earliest`)
  slow.webSocket.pause()
  // More bytes than the limit wait for it, and it reads nothing.
  const waiting = async () => (await fastify.pgws.connections())[0]!.bufferedBytes
  await until(async () => {
    const before = await waiting()
    await sleep(100)
    return before > 10_000 && (await waiting()) === before
  })
  const witness = await open(t, `${ws}/a/${reader}`)
  await sql(`select pgws.publish_text('a', 'live')`)
  await witness.received(1)
  slow.webSocket.resume()
  await slow.received(1001)
  t.equal(payloads(slow).at(-1), 'live')
  t.equal(new Set(ids(slow)).size, 1001)
})

t.test('accepts channel names of up to 1,024 bytes with any characters', async (t) => {
  const { ws, sql } = await durable(t)
  await sql(`select pgws.retain('durable*', '1 hour')`)
  for (const name of [`durable ${'n'.repeat(1016)}`, `plain ${'n'.repeat(1018)}`, `durable "'\\\n%{é😀`]) {
    const client = await open(t, `${ws}/${encodeURIComponent(name)}/${reader}`)
    await sql(`select pgws.publish_text($1, 'small'), pgws.publish_text($1, repeat('x', 9000))`, [name])
    await client.received(2)
    t.ok(client.messages.every((text) => JSON.parse(text).channel === name))
  }
})

t.test('a transaction that has published and stays open blocks nobody', async (t) => {
  const { ws, dbUri, sql, fastify } = await durable(t)
  await sql(`select pgws.retain('a', '1 hour')`)
  const client = await open(t, `${ws}/a/${reader}`)
  const open1 = new pg.Client(dbUri)
  await open1.connect()
  await open1.query(`begin; select pgws.publish_text('a', 'late')`)
  await sql(`select pgws.publish_text('a', 'meanwhile')`)
  await fastify.pgws.publish('a', 'from the server')
  await client.received(2)
  await open1.query('commit')
  await open1.end()
  await client.received(3)
  t.same(payloads(client), ['meanwhile', 'from the server', 'late'])
  t.same(ids(client), [...ids(client)].sort())
  // Serializable transactions do not fail because of it, and savepoints keep and discard messages as usual.
  await sql(`begin isolation level serializable; select pgws.publish_text('a', 'serializable'); commit`)
  await sql(
    `begin; select pgws.publish_text('a', 'kept'); savepoint s; select pgws.publish_text('a', 'undone'); rollback to s; select pgws.publish_text('a', 'kept, too'); commit`
  )
  await sql(
    `begin; set constraints all immediate; select pgws.publish_text('a', 'now'); select pgws.publish_text('a', 'and now'); commit`
  )
  await client.received(8)
  t.same(payloads(client).slice(3), ['serializable', 'kept', 'kept, too', 'now', 'and now'])
})

t.test('does not deadlock with deferred triggers of the application', async (t) => {
  const { dbUri, sql } = await durable(t)
  await sql(`select pgws.retain('a', '1 hour')`)
  await sql(`create table counters (id int primary key, n int); insert into counters values (1, 0), (2, 0);
    create table things (id int);
    create function bump() returns trigger language plpgsql as $$ begin update counters set n = n + 1 where id = new.id; return null; end $$;
    create constraint trigger bump after insert on things deferrable initially deferred for each row execute function bump()`)
  await Promise.all(
    Array.from({ length: 8 }, async (_, i) => {
      const client = new pg.Client(dbUri)
      await client.connect()
      for (let n = 0; n < 25; n++) {
        await client.query('begin')
        await client.query(`select pgws.publish_text('a', 'x')`)
        await client.query('insert into things values ($1)', [(i % 2) + 1])
        await client.query('commit')
      }
      await client.end()
    })
  )
  t.same((await sql('select sum(n)::int as n from counters')).rows, [{ n: 200 }])
  await sql('select pgws.catch_up()')
  t.same(
    (await sql('select count(*)::int as n, count(distinct position)::int as positions from pgws.messages'))
      .rows,
    [{ n: 200, positions: 200 }]
  )
})
