import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { freePort, run, started } from '../support/app.js'
import { build, notify, open, refusal, SECRET, token, until, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const dashboard = readFileSync(join(root, 'docs/grafana-dashboard.json'), 'utf8')

/** The samples of Prometheus' text format. */
async function scrape(url: string): Promise<Map<string, number>> {
  const response = await fetch(url)
  const samples = new Map<string, number>()
  for (const line of (await response.text()).split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    const end = line.lastIndexOf(' ')
    samples.set(line.slice(0, end), Number(line.slice(end + 1)))
  }
  return samples
}

t.test('GET /metrics counts what happens', async (t) => {
  const own = await database()
  const begun = Date.now()
  const { http, ws, fastify } = await build(t, { dbUri: own, maxBufferedBytes: 1000 })
  const response = await fetch(`${http}/metrics`)
  t.equal(response.status, 200)
  t.match(response.headers.get('content-type'), /^text\/plain; version=0\.0\.4/)
  const readers = await Promise.all([1, 2].map(() => open(t, `${ws}/secret-room/${token({ mode: 'r' })}`)))
  const writer = await open(t, `${ws}/secret-room/${token({ mode: 'w' })}`)
  await refusal(t, `${ws}/secret-room/nothing`)
  writer.send('hello')
  // As in postgres-websockets, the sender gets no error.
  readers[0]!.send('may not write')
  for (const reader of readers) await reader.received(1)
  await fastify.pgws.publish('secret-room', 'there')
  for (const reader of readers) await reader.received(2)
  const samples = await scrape(`${http}/metrics`)
  t.match(Object.fromEntries(samples), {
    'pgws_connections{transport="websocket"}': 3,
    'pgws_connections{transport="sdk-sse"}': 0,
    pgws_channels: 1,
    pgws_messages_received_total: 1,
    pgws_ignored_messages_total: 1,
    pgws_received_bytes_total: 5,
    pgws_notifications_total: 2,
    pgws_messages_sent_total: 4,
    pgws_listener_up: 1,
    pgws_listener_reconnects_total: 0,
    pgws_listener_gap_seconds_total: 0,
    pgws_paused_sockets: 0,
    pgws_publish_queue_bytes: 0,
    'pgws_refusals_total{reason="FST_PGWS_INVALID_TOKEN"}': 1,
    pgws_publish_duration_seconds_count: 2,
    'pgws_publish_batch_size_bucket{le="1"}': 2,
    pgws_delivery_duration_seconds_count: 2
  })
  t.ok(samples.get('pgws_sent_bytes_total')! > 400)
  const heartbeat = samples.get('pgws_listener_heartbeat_timestamp_seconds')! * 1000
  t.ok(heartbeat >= begun && heartbeat <= Date.now())
  t.ok(samples.has('nodejs_eventloop_lag_p99_seconds'))
  t.notMatch([...samples.keys()].join('\n'), /secret-room/)

  // A client that does not read, and more than the buffers of the operating system hold.
  readers[0]!.webSocket.pause()
  for (let i = 0; i < 4000; i++) fastify.pgws.publish('secret-room', 'x'.repeat(7000)).catch(() => {})
  await until(async () => (await scrape(`${http}/metrics`)).get('pgws_slow_closes_total') === 1)
  readers[0]!.webSocket.resume()
  writer.webSocket.close(1000)
  await until(async () => {
    const now = await scrape(`${http}/metrics`)
    return (
      now.get('pgws_closes_total{code="3008",reason="slow"}') === 1 &&
      now.get('pgws_closes_total{code="1000",reason="client"}') === 1
    )
  })
})

t.test('clients cannot add series', async (t) => {
  const { http, ws } = await build(t, { dbUri })
  const clients = await Promise.all(
    Array.from({ length: 20 }, () => open(t, `${ws}/a/${token({ mode: 'r' })}`))
  )
  for (const [n, { webSocket }] of clients.entries()) webSocket.close(n === 0 ? 3008 : 4000 + n)
  await until(
    async () => (await scrape(`${http}/metrics`)).get('pgws_connections{transport="websocket"}') === 0
  )
  const closes = [...(await scrape(`${http}/metrics`))].filter(([name]) => name.startsWith('pgws_closes'))
  t.same(Object.fromEntries(closes), {
    'pgws_closes_total{code="3008",reason="client"}': 1,
    'pgws_closes_total{code="other",reason="client"}': 19
  })
})

t.test('metrics can be disabled, or served on their own port', async (t) => {
  const off = await build(t, { dbUri, metrics: false })
  t.equal((await fetch(`${off.http}/metrics`)).status, 404)
  const port = await freePort()
  const apart = await build(t, { dbUri, metricsPort: port })
  t.equal((await fetch(`${apart.http}/metrics`)).status, 404)
  t.equal((await scrape(`http://127.0.0.1:${port}/metrics`)).get('pgws_listener_up'), 1)
  await apart.fastify.close()
  await t.rejects(fetch(`http://127.0.0.1:${port}/metrics`))
})

t.test('the Grafana dashboard shows only metrics that exist, and all of ours', async (t) => {
  const { http } = await build(t, { dbUri })
  const text = await (await fetch(`${http}/metrics`)).text()
  const known = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name!))
  const shown = new Set(
    [...dashboard.matchAll(/\b(?:pgws|nodejs|process)_\w+/g)].map(([name]) =>
      name.replace(/_(bucket|sum|count)$/, '')
    )
  )
  for (const name of shown) t.ok(known.has(name), name)
  for (const name of known) if (name.startsWith('pgws_')) t.ok(shown.has(name), name)
})

t.test(
  'logs one line for each connection that opens, closes, or is refused, without payload or token',
  async (t) => {
    const { ws, http, lines } = await build(t, { dbUri })
    const jwt = token({ mode: 'rw' })
    lines.length = 0
    const client = await open(t, `${ws}/a/${jwt}`)
    client.send('a private message')
    await client.received(1)
    client.webSocket.close(4000)
    await client.closed()
    await until(() => lines.some((line) => line.includes('socket closed')))
    await refusal(t, `${ws}/a/${jwt}x`)
    await until(() => lines.length >= 3)
    // Further lines would arrive meanwhile.
    await fetch(`${http}/health/live`)
    t.equal(lines.length, 3, lines.join(''))
    const [opened, closed, refused] = lines.map((line) => JSON.parse(line))
    t.match(opened, { level: 30, msg: 'socket opened', ip: '127.0.0.1', channels: ['a'] })
    t.match(closed, {
      level: 30,
      msg: 'socket closed',
      connection: opened.connection,
      code: 4000,
      reason: 'client'
    })
    t.type(closed.seconds, 'number')
    t.match(refused, { level: 30, msg: /^socket refused: / })
    t.notMatch(lines.join(''), /eyJ|private/)
    await fetch(`${http}/health`)
  }
)

t.test('logs a warning for a secret that is too short', async (t) => {
  const short = await build(t, { dbUri, jwtSecret: 'short' })
  const warning = short.lines.find((line) => line.includes('shorter than 32 bytes'))
  t.match(warning, /PGWS_JWT_SECRET/)
  const long = await build(t, { dbUri, jwtSecret: SECRET })
  t.notOk(long.lines.some((line) => line.includes('shorter than')))
})

t.test("the server's pages have security headers; an operator's files do not", async (t) => {
  const own = await started(await run(t, { PGWS_HOST: '127.0.0.1' }))
  for (const path of ['/', '/page.js', '/documentation/static/index.html']) {
    const { status, headers } = await fetch(own.http + path)
    t.equal(status, 200, path)
    t.equal(headers.get('x-content-type-options'), 'nosniff', path)
    if (path === '/page.js') continue
    const policy = headers.get('content-security-policy')
    t.match(policy, /default-src|script-src/, path)
    t.notMatch(policy, /upgrade-insecure-requests/, path)
  }
  const health = await fetch(`${own.http}/health`)
  t.equal(health.headers.get('server'), null)
  t.equal(health.headers.get('x-powered-by'), null)

  const root = t.testdir({ 'index.html': '<script>inline()</script>' })
  const theirs = await started(
    await run(t, {
      PGWS_DB_URI: dbUri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_ROOT_PATH: root,
      PGWS_HOST: '127.0.0.1'
    })
  )
  t.equal((await fetch(theirs.http)).headers.get('content-security-policy'), null)
})

t.test('PGWS_TRUST_PROXY says whose X-Forwarded-For header is trusted', async (t) => {
  const app = await started(
    await run(t, {
      PGWS_DB_URI: dbUri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_HOST: '127.0.0.1',
      PGWS_TRUST_PROXY: '127.0.0.1, 10.0.0.0/8'
    })
  )
  const jwt = token({ mode: 'r' })
  await open(t, `${app.ws}/a/${jwt}`, { headers: { 'x-forwarded-for': '192.0.2.9' } })
  await until(() => app.output().includes('"ip":"192.0.2.9"'))
  await notify(dbUri, '{}')
})
