import pg from 'pg'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { SCHEMA_VERSION } from '../../../lib/schema/migrate.js'
import { run } from '../../support/app.js'
import { build, type Client, open, query, SECRET, token, until } from '../../support/helper.js'
import { snippet } from '../../support/pages.js'
import { createDatabase, migratedDatabase, sharedPostgres } from '../../support/postgres.js'
import { runFragment } from '../../support/run-fragment.js'

const postgres = await sharedPostgres(t)
const reader = token({ mode: 'r' })
const writer = token({ mode: 'w' })

const payloads = ({ messages }: Client) => messages.map((text) => JSON.parse(text).payload)

async function durable(t: Test, options: object = {}, before?: string) {
  const dbUri = await migratedDatabase(postgres)
  if (before !== undefined) await query(dbUri, before)
  const app = await build(t, { dbUri, ...options })
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  return { ...app, dbUri, sql }
}

t.test('GET /channels/:channel/history', async (t) => {
  const { http, sql } = await durable(t)
  await sql(
    `select pgws.retain('a/b:%', '1 hour'); select pgws.publish('a/b:%', to_jsonb(n)) from generate_series(1, 1500) n`
  )
  const get = async (query = '', jwt = reader, channel = 'a/b:%') => {
    const response = await fetch(`${http}/channels/${encodeURIComponent(channel)}/history${query}`, {
      headers: { authorization: `Bearer ${jwt}` }
    })
    return {
      status: response.status,
      body: (await response.json()) as { messages: { id: string; payload: number }[] }
    }
  }
  const numbers = ({ body }: Awaited<ReturnType<typeof get>>) => body.messages.map(({ payload }) => payload)
  const first = await get()
  t.same(
    numbers(first),
    Array.from({ length: 100 }, (_, i) => i + 1)
  )
  const next = await get(`?since=${first.body.messages[99]!.id}&limit=1000`)
  t.same(
    numbers(next),
    Array.from({ length: 1000 }, (_, i) => i + 101)
  )
  t.same(numbers(await get(`?since=${next.body.messages[999]!.id}&limit=1000`)).length, 400)
  t.same(numbers(await get('', reader, 'other')), [])
  for (const bad of ['?limit=0', '?limit=1001', '?limit=x', '?since=nonsense'])
    t.equal((await get(bad)).status, 400)
  t.equal((await get('', writer)).status, 403)
  t.equal((await get('', token({ mode: 'r', channels: ['x'] }))).status, 403)
  t.equal((await get('', 'nonsense')).status, 401)
  t.equal((await fetch(`${http}/channels/history`)).status, 404)
})

t.test('stores a message that is sent again with its idempotency key once', async (t) => {
  const { http, ws, sql, fastify } = await durable(t)
  await sql(`select pgws.retain('a', '1 hour')`)
  const client = await open(t, `${ws}/a/${reader}`)
  const post = (key: string, sub = 'me') =>
    fetch(`${http}/publish`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${token({ mode: 'w', sub })}`,
        'content-type': 'application/json',
        'idempotency-key': key
      },
      body: JSON.stringify([
        { channel: 'a', payload: 'first' },
        { channel: 'a', payload: 'second' }
      ])
    })
  for (const key of ['one', 'one', 'one', 'two']) t.equal((await post(key)).status, 202)
  // The same key of another sender is a different key.
  await post('one', 'somebody else')
  await fastify.pgws.publish('a', 'last')
  await client.received(7)
  t.same(
    client.messages.map((text) => JSON.parse(text).payload),
    [...Array(3).fill(['first', 'second']).flat(), 'last']
  )
})

t.test('an idempotency key belongs to the identity in the token, or to that one token', async (t) => {
  const { http, ws, sql } = await durable(t)
  await sql(`select pgws.retain('a', '1 hour')`)
  const client = await open(t, `${ws}/a/${reader}`)
  const post = async (claims: object, body: unknown = { channel: 'a', payload: claims }) => {
    const answer = await fetch(`${http}/publish`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${token({ mode: 'w', ...claims })}`,
        'content-type': 'application/json',
        'idempotency-key': 'k'
      },
      body: JSON.stringify(body)
    })
    t.equal(answer.status, 202)
  }
  // The second request of each pair comes with another token of the same sender, or with the same token.
  const strangers = [
    {},
    { jti: 'one' },
    { jti: 'two' },
    { iss: 'x' },
    { iss: 'x', jti: 'one' },
    { sub: '' },
    { sub: 'me' }
  ]
  for (const claims of strangers) {
    await post(claims)
    await post(claims)
  }
  await post({ iss: 'x', sub: 'me' })
  await post({ iss: 'x', sub: 'me', jti: 'refreshed' })
  await post({ sub: 'last' })
  await client.received(strangers.length + 2)
  t.same(payloads(client), [...strangers, { iss: 'x', sub: 'me' }, { sub: 'last' }])
})

t.test('concurrent requests with the same key publish once', async (t) => {
  for (const functions of [{}, { onMessageFunction: 'app.heard' }]) {
    const { http, ws, sql } = await durable(
      t,
      functions,
      `
      create schema app; create table app.calls (message jsonb);
      create function app.heard(message jsonb) returns jsonb language plpgsql as $$
        begin insert into app.calls values (message); return message; end $$`
    )
    await sql(`select pgws.retain('a', '1 hour')`)
    const client = await open(t, `${ws}/a/${reader}`)
    // Enough requests that some of them share a transaction.
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        fetch(`${http}/publish`, {
          method: 'POST',
          headers: {
            authorization: `Bearer ${token({ mode: 'w', sub: 'me' })}`,
            'content-type': 'application/json',
            'idempotency-key': `${i % 2}`
          },
          body: JSON.stringify({ channel: 'a', payload: i % 2 })
        })
      )
    )
    t.ok(answers.every(({ status }) => status === 202))
    await sql(`select pgws.publish('a', '"end"')`)
    await until(() => payloads(client).at(-1) === 'end')
    t.same(payloads(client).sort(), [0, 1, 'end'])
    const { rows } = await sql('select count(*)::int as calls from app.calls')
    t.equal(rows[0].calls, 'onMessageFunction' in functions ? 2 : 0)
  }
})

t.test('binary messages', async (t) => {
  const { ws, sql } = await durable(t)
  await sql(`select pgws.retain('durable', '1 hour')`)
  for (const channel of ['durable', 'plain']) {
    const client = await open(t, `${ws}/${channel}/${reader}`)
    const large = Buffer.alloc(20_000, 7)
    await sql(
      `select pgws.publish_bytes($1, '\\x00ff'), pgws.publish_bytes($1, $2), pgws.publish_text($1, 'text')`,
      [channel, large]
    )
    await client.received(3)
    t.same(client.binary, [true, true, false])
  }
  const url = `${ws}/durable/${token({ mode: 'rw' })}`
  const binary = await open(t, `${url}?binary=true`)
  const text = await open(t, url)
  const bytes: Buffer[] = []
  binary.webSocket.on('message', (data, isBinary) => isBinary && bytes.push(data as Buffer))
  binary.send(Buffer.from([1, 2, 0, 255]))
  await binary.received(1)
  t.same(bytes, [Buffer.from([1, 2, 0, 255])])
  // Without the option, binary messages are text, as before.
  text.send(Buffer.from('words'))
  await binary.received(2)
  t.same(binary.binary, [true, false])
  const replayed = await open(t, `${url}?since=earliest`)
  await replayed.received(5)
  t.same(replayed.binary, [true, true, false, true, false])
})

t.test('publishes a message for each change of a watched table', async (t) => {
  const { ws, sql } = await durable(t)
  await sql(`
    create schema "My Shop";
    create table "My Shop"."Orders" (
      "Order Id" int, customer_id int, note text, total numeric, doubled numeric generated always as (total * 2) stored,
      primary key ("Order Id", customer_id)
    );
    select pgws.watch('"My Shop"."Orders"', 'orders:{customer_id}');
  `)
  const one = await open(t, `${ws}/orders%3A1/${reader}`)
  const two = await open(t, `${ws}/orders%3A2/${reader}`)
  const changes = (client: typeof one) => client.messages.map((text) => JSON.parse(text).payload)
  await sql(`insert into "My Shop"."Orders" values (10, 1, 'it''s "quoted" {customer_id}', 1.5)`)
  await one.received(1)
  const record = {
    'Order Id': 10,
    customer_id: 1,
    note: `it's "quoted" {customer_id}`,
    total: 1.5,
    doubled: 3
  }
  t.same(changes(one)[0], {
    operation: 'INSERT',
    schema: 'My Shop',
    table: 'Orders',
    record,
    old_record: null
  })
  await sql(`update "My Shop"."Orders" set customer_id = 2`)
  await one.received(2)
  await two.received(1)
  const moved = {
    operation: 'UPDATE',
    schema: 'My Shop',
    table: 'Orders',
    record: { ...record, customer_id: 2 },
    old_record: record
  }
  t.same(changes(one)[1], moved)
  t.same(changes(two)[0], moved)
  await sql(`delete from "My Shop"."Orders"`)
  await two.received(2)
  t.match(changes(two)[1], { operation: 'DELETE', record: null, old_record: { customer_id: 2 } })

  await sql(`insert into "My Shop"."Orders" values (11, 2, repeat('x', 1024 * 1024), 2)`)
  await two.received(3)
  t.equal(changes(two)[2].record.note.length, 1024 * 1024)
  await sql(
    `alter table "My Shop"."Orders" drop column note, add column added text default 'yes'; insert into "My Shop"."Orders" values (12, 2, 3)`
  )
  await two.received(4)
  t.match(changes(two)[3].record, { added: 'yes' })
  await sql(`select pgws.unwatch('"My Shop"."Orders"'); insert into "My Shop"."Orders" values (13, 2, 3)`)

  await sql(`create table plain (id int primary key, state text, secret text);
    select pgws.watch('plain', 'plain', '{INSERT,UPDATE,TRUNCATE}', '{id,state}', 'record.state <> ''draft''')`)
  const plain = await open(t, `${ws}/plain/${reader}`)
  await sql(`insert into plain values (1, 'draft', 's'), (2, 'final', 's');
    update plain set secret = 't'; update plain set state = 'done' where id = 2; delete from plain where id = 1; truncate plain`)
  await plain.received(3)
  t.same(
    changes(plain).map(({ operation, record }) => [operation, record]),
    [
      ['INSERT', { id: 2, state: 'final' }],
      ['UPDATE', { id: 2, state: 'done' }],
      ['TRUNCATE', null]
    ]
  )

  await sql(`create table parts (id int, day date) partition by range (day);
    create table parts_1 partition of parts for values from ('2026-01-01') to ('2026-02-01');
    select pgws.watch('parts', 'parts'); insert into parts values (1, '2026-01-05')`)
  const parts = await open(t, `${ws}/parts/${token({ mode: 'r' })}`)
  await sql(`insert into parts values (2, '2026-01-06')`)
  // The notification of the first row may still be on its way when the client connects.
  await until(() => changes(parts).at(-1)?.record.id === 2)
  t.match(changes(parts).at(-1), { operation: 'INSERT', record: { id: 2, day: '2026-01-06' } })
  await t.rejects(sql(`select pgws.watch('plain', 'x', '{UPSERT}')`), { message: /unknown event UPSERT/ })
  for (const [channel, columns, missing] of [
    ['plain:{nothing}:{id}', 'null', 'nothing'],
    ['plain', "'{id,statte}'", 'statte'],
    ['plain:{Id}', "'{id}'", '"Id"']
  ]) {
    await t.rejects(
      sql(`select pgws.watch('plain', $1, default, ${columns})`.replace('default', "'{INSERT}'"), [channel]),
      {
        code: '42703',
        message: `pgws.watch: the table public.plain has no column ${missing}`,
        hint: /id, state/
      }
    )
  }
})

t.test('delivers more rows of one statement than the server announces in a round', async (t) => {
  // They arrive faster than a client on a busy machine reads.
  const { ws, sql } = await durable(t, { maxBufferedBytes: 100_000_000 })
  await sql(
    `create table bulk (id int); select pgws.watch('bulk', 'bulk'); select pgws.retain('bulk', '1 hour')`
  )
  const client = await open(t, `${ws}/bulk/${reader}`)
  await sql('insert into bulk select generate_series(1, 25000)')
  await client.received(25_000)
  const numbers = client.messages.map((text) => JSON.parse(text).payload.record.id)
  t.ok(numbers.every((id, i) => id === i + 1))
})

t.test('privileges: publishers may publish and watch their tables, the server may announce', async (t) => {
  const dbUri = await createDatabase(postgres)
  const admin = new pg.Client(dbUri)
  await admin.connect()
  t.teardown(() => admin.end())
  const database = (await admin.query('select current_database() as name')).rows[0].name
  const as = (user: string) => dbUri.replace('postgres@', `${user}@`)
  const { fastify: installer } = await build(t, { dbUri, migrate: true })
  await installer.close()
  const names = ['publisher', 'server', 'owner', 'nobody'].map((name) => `${name}_${database.slice(-8)}`)
  for (const name of names) await admin.query(`create role ${name} login`)
  const [publisher, server, owner, nobody] = names as [string, string, string, string]
  await admin.query(
    `grant pgws_publisher to ${publisher}; grant pgws_publisher to ${owner}; grant pgws_server to ${server}`
  )
  await admin.query(
    `select pgws.retain('a', '1 hour'); create table owned (id int); alter table owned owner to ${owner}`
  )

  const { ws, fastify } = await build(t, { dbUri: as(server) })
  const client = await open(t, `${ws}/a/${reader}?since=earliest`)
  await query(as(publisher), `select pgws.publish_text('a', 'from the publisher')`)
  await client.received(1)
  await fastify.pgws.publish('a', 'from the server')
  await client.received(2)
  await fastify.pgws.publish('a', 'y'.repeat(9000))
  await client.received(3)
  t.match(await fastify.pgws.history('a', undefined, 10), {
    messages: { length: 3 },
    gap: false,
    next: undefined
  })
  await query(as(owner), `select pgws.watch('owned', 'a'); insert into owned values (1)`)
  await client.received(4)
  // Whoever may write to the table may do this: the watch publishes with its owner's rights.
  await admin.query(`grant insert on owned to ${nobody}`)
  await query(as(nobody), 'insert into owned values (2)')
  await client.received(5)
  for (const text of [
    `select pgws.publish_text('a', 'no')`,
    'select * from pgws.messages',
    `select pgws.relay(1, 'x', '{a}', '{b}', '{null}', '{null}')`,
    `select pgws.retain('b', '1 hour')`,
    `select pgws.watch('owned', 'a')`,
    'begin; lock table pgws.commit_lock in exclusive mode'
  ]) {
    await t.rejects(query(as(nobody), text), { code: '42501' }, text)
  }
  await t.rejects(query(as(publisher), `select pgws.history('a')`), { code: '42501' })
})

t.test('the id of a message in a channel that the client may not read reveals nothing', async (t) => {
  const { ws, sql, fastify } = await durable(t)
  await sql(`select pgws.retain('**', '1 hour')`)
  await sql(`select pgws.publish_text('secret', 's' || n) from generate_series(1, 20) n`)
  await fastify.pgws.publish('mine', 'hello')
  const { rows } = await sql(`select id from pgws.history('secret') limit 1`)
  const own = token({ mode: 'r', channels: ['mine'] })
  const client = await open(t, `${ws}/mine/${own}?since=${rows[0].id}`)
  await client.received(1)
  t.same(
    client.messages.map((text) => JSON.parse(text).payload),
    ['hello']
  )
})

t.test('expired and surplus messages are deleted within 30 s', async (t) => {
  const { sql } = await durable(t)
  await sql(
    `select pgws.retain('old', '1 second'), pgws.retain('many', '1 hour', 5), pgws.retain('kept', '1 hour')`
  )
  await sql(
    `select pgws.publish_text(c, n::text) from generate_series(1, 50) n, unnest('{old,many,kept}'::text[]) c`
  )
  await sql(`select pgws.publish_text('plain', repeat('x', 9000))`)
  await until(async () => {
    const { rows } = await sql('select channel, count(*)::int as n from pgws.messages group by 1 order by 1')
    return JSON.stringify(rows) === '[{"channel":"kept","n":50},{"channel":"many","n":5}]'
  })
  await sql(`select pgws.unretain('kept')`)
  await until(async () => (await sql('select pgws.clean()')).rows[0].clean === 0)
  const { rows } = await sql('select count(*)::int as n from pgws.messages')
  t.same(rows, [{ n: 5 }])
})

t.test('the SQL and the client of docs/durable-channels.md work as printed', async (t) => {
  const example = snippet('docs/durable-channels.md', 'pgws.retain(')
  const browser = snippet('docs/durable-channels.md', 'socket.onclose')
  const { sql, fastify, port, ws } = await durable(t)
  await sql(example)

  const shown: string[] = []
  let reloads = 0
  const sockets: WebSocket[] = []
  class Local extends WebSocket {
    constructor(url: string) {
      super(url.replace('wss://example.org', `ws://127.0.0.1:${port}`))
      this.on('error', () => {})
      sockets.push(this)
    }
  }
  await runFragment(browser, {
    WebSocket: Local,
    token: reader,
    reload: () => reloads++,
    show: (message: { payload: string }) => shown.push(message.payload)
  })
  await until(() => fastify.pgws.channels().length === 1)
  await fastify.pgws.publish('orders:7', 'one')
  await until(() => shown.length === 1)
  sockets[0]!.terminate()
  await until(() => fastify.pgws.channels().length === 0)
  await fastify.pgws.publish('orders:7', 'two')
  await until(() => shown.length === 2)
  t.same(shown, ['one', 'two'])
  t.equal(reloads, 0)
  t.teardown(() => {
    // Otherwise the page would reconnect.
    for (const socket of sockets) {
      socket.onclose = null
      socket.terminate()
    }
  })
  t.ok(ws)
})

t.test('the command migrate installs the schema', async (t) => {
  const dbUri = await createDatabase(postgres)
  const environment = { PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET }
  const first = await run(t, environment, ['migrate'])
  t.equal(await first.exit, 0)
  t.match(first.output(), `Installed version ${SCHEMA_VERSION}.`)
  const second = await run(t, environment, ['migrate'])
  t.equal(await second.exit, 0)
  t.match(second.output(), `The schema is up to date (version ${SCHEMA_VERSION}).`)
  await query(dbUri, `select pgws.publish('a', '1')`)
})

t.test('reads each stored row once for all sockets', async (t) => {
  const { ws, sql } = await durable(t)
  const clients = await Promise.all(Array.from({ length: 20 }, () => open(t, `${ws}/a/${reader}`)))
  await sql(`select pgws.publish_text('a', repeat('x', 9000) || n) from generate_series(1, 50) n`)
  for (const client of clients) await client.received(50)
  // PostgreSQL updates its statistics with a delay.
  await until(async () => {
    const { rows } = await sql(
      `select idx_tup_fetch::int as n from pg_stat_user_tables where relname = 'large'`
    )
    return rows[0].n >= 50
  })
  const { rows } = await sql(
    `select idx_tup_fetch::int as n from pg_stat_user_tables where relname = 'large'`
  )
  // The sequencer reads the last row once a second; one read for each socket would be 1,000.
  t.ok(rows[0].n < 200, `${rows[0].n} rows were read`)
})

t.test('delivers messages whatever the age and version of the tables', async (t) => {
  const { ws, sql, fastify } = await durable(t)
  await sql(`select pgws.retain('a', '178000000 years'), pgws.retain('b', '1 hour')`)
  await sql('update pgws.settings set retention_version = 9223372036854775807')
  await sql(`select pg_notify('pgws', 'settings')`)
  const client = await open(t, `${ws}/${token({ mode: 'r', channels: ['a', 'b', 'c'] })}`)
  for (const channel of ['a', 'b', 'c']) {
    await fastify.pgws.publish(channel, 'from the server')
    await sql(`select pgws.publish_text($1, 'from SQL')`, [channel])
  }
  const got = (await client.received(6)).map((text) => JSON.parse(text))
  t.same(
    got.map(({ channel, payload }) => `${channel} ${payload}`),
    ['a', 'b', 'c'].flatMap((channel) => [`${channel} from the server`, `${channel} from SQL`])
  )
  const { rows } = await sql('select channel, count(*)::int as n from pgws.messages group by 1 order by 1')
  t.same(rows, [
    { channel: 'a', n: 2 },
    { channel: 'b', n: 2 }
  ])
})
