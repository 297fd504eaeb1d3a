import pg from 'pg'
import t, { type Test } from 'tap'
import { build, open, query, token, until, withPostgres } from '../../support/helper.js'

const { database } = await withPostgres(t)
const writer = token({ mode: 'rw' })

async function server(t: Test, options: { dbUri?: string; [option: string]: unknown } = {}) {
  const dbUri = options.dbUri ?? (await database())
  const app = await build(
    t,
    { dbUri, migrate: true, rawChannels: 'raw', ...options },
    { server: { bodyLimit: 32 * 1024 * 1024 } }
  )
  await query(dbUri, `select pgws.retain('kept', '1 hour')`)
  const post = async (body: unknown) => {
    const response = await fetch(`${app.http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${writer}`, 'content-type': 'application/json' },
      body: JSON.stringify(body)
    })
    return { status: response.status, answer: (await response.json()) as { code: string; message: string } }
  }
  return { ...app, dbUri, post }
}

const list = (count: number, channel: string) =>
  Array.from({ length: count }, (_, n) => ({ channel, payload: n + 1 }))
const names = (count: number) => Array.from({ length: count }, (_, n) => `c${n}`)

t.test('a request may name as many channels as a socket may join, and no more', async (t) => {
  const { post } = await server(t, { maxChannelsPerConnection: 5 })
  t.equal((await post({ channels: names(5), payload: 1 })).status, 202)
  t.match(await post({ channels: names(60_000), payload: 1 }), {
    status: 400,
    answer: { code: 'FST_PGWS_TOO_MANY_CHANNELS', message: /names 60000 channels; it may name at most 5/ }
  })
  // The channels of a list are added up.
  t.equal((await post(names(6).map((channel) => ({ channel, payload: 1 })))).status, 400)
  t.equal(
    (
      await post([
        { channels: names(5), payload: 1 },
        { channel: 'c0', payload: 2 }
      ])
    ).status,
    202
  )
})

t.test('limits the messages and bytes of a request, counting each channel', async (t) => {
  const { post } = await server(t)
  t.match(await post(list(10_001, 'a')), { status: 413, answer: { code: 'FST_PGWS_REQUEST_TOO_LARGE' } })
  t.match(await post(Array.from({ length: 101 }, () => ({ channels: names(100), payload: 1 }))), {
    status: 413,
    answer: { message: /at most 10000 messages/ }
  })
  t.match(await post({ channels: names(100), payload: 'x'.repeat(200_000) }), {
    status: 413,
    answer: { message: /16777216 bytes/ }
  })
  // A single message has a limit of its own.
  t.equal((await post({ channel: 'a', payload: 'x'.repeat(17 * 1024 * 1024) })).status, 202)
})

t.test('delivers a large list complete and in order, whatever the kind of channel', async (t) => {
  const { ws, dbUri, post } = await server(t)
  await query(
    dbUri,
    `create schema app; create function app.on_message(message jsonb) returns jsonb language sql as 'select $1'`
  )
  const calling = await server(t, { dbUri, onMessageFunction: 'app.on_message' })
  const expected = (count: number) => Array.from({ length: count }, (_, n) => n + 1)
  for (const [channel, count] of [
    ['a', 10_000],
    ['kept', 10_000],
    ['raw', 1000]
  ] as const) {
    const client = await open(t, `${ws}/${channel}/${writer}`)
    t.equal((await post(list(count, channel))).status, 202)
    const got = (await client.received(count, 30_000)).map((text) => JSON.parse(text))
    t.same(
      got.map((message) => (channel === 'raw' ? message : message.payload)),
      expected(count)
    )
    client.messages.length = 0
    t.equal((await calling.post(list(1000, channel))).status, 202)
    await client.received(1000, 30_000)
    t.same(
      client.messages.map((text) => (channel === 'raw' ? JSON.parse(text) : JSON.parse(text).payload)),
      expected(1000)
    )
  }
})

t.test('serves others while the database works on a large request', async (t) => {
  const { ws, dbUri, post } = await server(t)
  const client = await open(t, `${ws}/a/${writer}`)
  const lock = new pg.Client(dbUri)
  await lock.connect()
  t.teardown(() => lock.end())
  await lock.query('begin; lock table pgws.commit_lock in exclusive mode')
  let done = false
  const large = post(list(600, 'kept')).finally(() => {
    done = true
  })
  await until(async () => {
    const { rows } = await query(
      dbUri,
      "select from pg_locks where not granted and relation = 'pgws.commit_lock'::regclass"
    )
    return rows.length > 0
  })
  t.equal((await post({ channel: 'a', payload: 'by HTTP' })).status, 202)
  client.send('by a socket')
  await client.received(2)
  t.equal(done, false)
  await lock.query('rollback')
  t.equal((await large).status, 202)
})
