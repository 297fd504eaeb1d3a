import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyRequest } from 'fastify'
import t from 'tap'
import { WebSocket } from 'ws'
import { run, started } from '../../support/app.js'
import {
  build,
  notify,
  open,
  query,
  Refused,
  refusal,
  SECRET,
  token,
  until,
  withPostgres
} from '../../support/helper.js'

const { database } = await withPostgres(t)

t.test('delivers each message to exactly the sockets of its audience, in the form of pgws', async (t) => {
  const dbUri = await database()
  const audiences = async ({ headers }: FastifyRequest) => {
    await sleep(1)
    if (headers['x-broken']) throw new Error('no such user')
    return String(headers['x-audiences'] ?? '')
      .split(',')
      .filter(Boolean)
  }
  const { ws, lines, fastify } = await build(t, {
    dbUri,
    endpoints: [
      { path: '/one', channels: ['news', 'chat'], audiences },
      { path: '/two', channels: ['news'], public: true }
    ]
  })
  const as = (...names: string[]) => ({ headers: { 'x-audiences': names.join(',') } })
  const a = await open(t, `${ws}/one`, as('a'))
  const ab = await open(t, `${ws}/one`, as('a', 'b', 'a'))
  const open2 = await open(t, `${ws}/two`)
  await notify(dbUri, 'a,{"text":"for a, {really}"}', 'news')
  await notify(dbUri, 'b,{"text":"for b"}', 'chat')
  await notify(dbUri, 'default,{"text":"for all"}', 'news')
  for (const bad of ['no audience', 'a,[1]', 'a,{"broken"', `${'x'.repeat(37)},{}`, '{"channel":"news"}']) {
    await notify(dbUri, bad, 'news')
  }
  await notify(dbUri, 'a,{"last":true}', 'news')
  await a.received(2)
  await ab.received(3)
  await open2.received(1)
  const parsed = (client: typeof a) => client.messages.map((text) => JSON.parse(text))
  t.match(parsed(a), [
    { payload: { text: 'for a, {really}' }, channel: 'news', id: /^[0-9a-f-]{36}$/ },
    { payload: { last: true }, channel: 'news' }
  ])
  t.same(Object.keys(parsed(a)[0]), ['payload', 'channel', 'id'])
  t.same(
    parsed(ab).map(({ payload }) => payload),
    [{ text: 'for a, {really}' }, { text: 'for b' }, { last: true }]
  )
  t.equal(parsed(ab)[0].id, parsed(a)[0].id)
  t.same(
    parsed(open2).map(({ payload }) => payload),
    [{ text: 'for all' }]
  )
  // Each is counted; the log has one line a minute.
  t.match(await fastify.pgws.metrics.registry.metrics(), /pgws_lost_messages_total\{reason="malformed"\} 5/)
  t.equal(lines.filter((line) => line.includes('"reason":"malformed"')).length, 1)
  t.same(fastify.pgws.channels(), [])
  t.equal((await refusal(t, `${ws}/one`)).status, 403)
  t.equal((await refusal(t, `${ws}/one`, { headers: { 'x-broken': '1', 'x-audiences': 'a' } })).status, 403)
  await t.rejects(build(t, { dbUri, endpoints: [{ path: 'x', channels: [] }] }), {
    message: /endpoints.*must be a list/
  })
})

t.test('a close takes effect after the frames before it; churn leaves nothing behind', async (t) => {
  const dbUri = await database()
  const { ws, http } = await build(t, { dbUri, endpoints: [{ path: '/ws', channels: ['c'], public: true }] })
  const connections = async () => {
    const text = await (await fetch(`${http}/metrics`)).text()
    return [
      Number(/^pgws_connections{transport="websocket"} (.*)$/m.exec(text)![1]),
      Number(/^pgws_channels (.*)$/m.exec(text)![1])
    ]
  }
  const talker = await open(t, `${ws}/ws`)
  talker.send('hello')
  talker.send(Buffer.from('more'))
  await until(async () => (await connections()).join() === '1,1')
  talker.webSocket.close()
  await talker.closed()
  for (let round = 0; round < 20; round++) {
    const clients = await Promise.all(Array.from({ length: 100 }, () => open(t, `${ws}/ws`)))
    for (const client of clients) client.webSocket.terminate()
  }
  await until(async () => (await connections()).join() === '0,0')
})

t.test('a slow socket does not delay others; origins are checked; an expired token closes', async (t) => {
  const dbUri = await database()
  const { ws, fastify } = await build(t, {
    dbUri,
    maxBufferedBytes: 100_000,
    allowedOrigins: 'https://example.org',
    endpoints: [{ path: '/ws', channels: ['c'] }]
  })
  const bearer = (claims: object) => ({ headers: { authorization: `Bearer ${token(claims)}` } })
  const slow = await open(t, `${ws}/ws`, bearer({ audiences: ['a'] }))
  const good = await open(t, `${ws}/ws`, bearer({ audiences: ['a'] }))
  slow.webSocket.pause()
  for (let i = 1; i <= 40; i++) {
    await query(
      dbUri,
      `select count(pg_notify('c', 'a,{"n":"' || $1::text || ' ' || n || repeat('x', 7000) || '"}')) from generate_series(1, 50) n`,
      [i]
    )
    await good.received(i * 50)
  }
  slow.webSocket.resume()
  t.equal((await slow.closed()).code, 3008)
  const foreign = { headers: { ...bearer({ audiences: ['a'] }).headers, origin: 'https://evil.example' } }
  t.equal((await refusal(t, `${ws}/ws`, foreign)).status, 403)
  t.equal((await refusal(t, `${ws}/ws`)).status, 401)
  t.equal((await refusal(t, `${ws}/ws`, bearer({ mode: 'r' }))).status, 403)
  t.equal((await refusal(t, `${ws}/ws`, bearer({ audiences: 'a' }))).status, 403)
  const short = await open(
    t,
    `${ws}/ws`,
    bearer({ audiences: ['a'], exp: Math.floor(Date.now() / 1000) + 4 })
  )
  t.equal((await short.closed()).code, 3001)
  t.ok(fastify)
})

t.test('as a server: PGWS_AUDIENCE_*', async (t) => {
  const dbUri = await database()
  const app = await started(
    await run(t, {
      PGWS_DB_URI: dbUri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_HOST: '127.0.0.1',
      PGWS_AUDIENCE_CHANNELS: 'events, other',
      PGWS_AUDIENCE_PUBLIC: 'true'
    })
  )
  // As the page of pgws connects.
  const client = await open(t, `${app.ws}/ws`)
  await notify(dbUri, 'default,{"hello":"world"}', 'other')
  t.match(JSON.parse((await client.received(1))[0]!), { payload: { hello: 'world' }, channel: 'other' })
})

t.test('a client that disconnects while its audiences are being decided frees its place', async (t) => {
  const dbUri = await database()
  let asked = 0
  let decide = () => {}
  const gone = new Promise<void>((resolve) => {
    decide = resolve
  })
  const audiences = async () => {
    if (++asked === 1) await gone
    return ['a']
  }
  const { ws } = await build(t, {
    dbUri,
    maxConnections: 1,
    endpoints: [{ path: '/ws', channels: ['c'], audiences }]
  })
  const impatient = new WebSocket(`${ws}/ws`)
  impatient.on('error', () => {})
  await until(() => asked === 1)
  impatient.terminate()
  decide()
  // As soon as the server notices.
  await until(() =>
    open(t, `${ws}/ws`).then(
      () => true,
      (error) => {
        if (error instanceof Refused && error.status === 503) return false
        throw error
      }
    )
  )
})
