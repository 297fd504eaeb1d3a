import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { nodeChannelOf } from '../../../../lib/postgres/own-channels.js'
import { SdkStreamConnection } from '../../../../lib/protocols/centrifugo/transports/stream-connection.js'
import { SDK_FORMATS } from '../../../../lib/protocols/centrifugo/wire/formats.js'
import { FaultProxy } from '../../../support/fault-proxy.js'
import {
  build,
  flowControl,
  LISTEN_CHANNEL,
  open,
  query,
  sqlListener,
  token,
  until,
  withPostgres
} from '../../../support/helper.js'
import { type Centrifuge, encoding, SDKS, subscribed } from '../../../support/sdk.js'
import { BROWSER, end, post, Stream, streaming, TRANSPORTS } from '../../../support/streams.js'

const { postgres, database, migrated } = await withPostgres(t)

const rw = (claims: object = {}) => token({ mode: 'rw', sub: 'me', ...claims })
const inSeconds = (seconds: number) => Math.floor(Date.now() / 1000) + seconds
const connect = (claims: object = {}) => JSON.stringify({ id: 1, connect: { token: rw(claims) } })

const next = <Context>(emitter: unknown, event: string) =>
  new Promise<Context>((resolve) => (emitter as Centrifuge).once(event as 'connected', resolve as never))

/** Two nodes of a cluster. */
async function two(test: Test, options: Parameters<typeof build>[1], second: object = {}) {
  const nodes = [await build(test, options), await build(test, { ...options, ...second })] as const
  await until(() => nodes.every(({ fastify }) => fastify.pgws.nodes().length === 2))
  return nodes
}

for (const version of ['5.3', '5.7', '5.8']) {
  for (const transport of TRANSPORTS) {
    t.test(`the SDK ${version} over ${transport}, with all commands sent to the other node`, async (t) => {
      const dbUri = await migrated('kept')
      const [here, other] = await two(t, { dbUri })
      const proxy = await FaultProxy.start(t, here.port)
      const client = streaming(
        t,
        transport,
        { http: `http://127.0.0.1:${proxy.port}`, emulation: other.http },
        { token: rw() },
        SDKS[version]!
      )
      const plain = subscribed(client, 'plain')
      const kept = subscribed(client, 'kept')
      const socket = await open(t, `${other.ws}/plain/${rw({ sub: 'raw' })}`)
      client.connect()
      await Promise.all([plain.subscription.ready(30_000), kept.subscription.ready(30_000)])
      for (let n = 0; n < 20; n++) await client.publish('plain', { n })
      socket.send('from a socket')
      await until(() => plain.got.length === 21)
      t.same(
        plain.got.slice(0, 20).map(({ data }) => data),
        Array.from({ length: 20 }, (_, n) => ({ n }))
      )
      t.match(plain.got.at(-1), { data: 'from a socket', info: { user: 'raw' } })
      await socket.received(21)

      // More than fits into one notification. Older SDKs replace a character that is split between chunks by
      // two replacement characters.
      const letter = transport === 'http_stream' && version !== '5.8' ? 'u' : 'ü'
      // In protobuf, older SDKs also fail on a reply that is split between chunks.
      const whole = encoding === 'protobuf' && version !== '5.8'
      const large = `${letter}"x`.repeat(whole ? 500 : 50_000)
      await kept.subscription.publish({ large })
      await until(() => kept.got.length === 1)
      t.same(kept.got[0]!.data, { large })
      const { publications } = await kept.subscription.history({ limit: 1 })
      t.equal(publications.length, 1)
      await t.rejects(client.rpc('anything', {}), { code: 108 })

      const again = next(kept.subscription, 'subscribed')
      proxy.cut()
      await query(dbUri, `select pgws.publish('kept', '2'), pgws.publish('kept', '3')`)
      await again
      await until(() => kept.got.length === 3)
      t.same(
        kept.got.slice(1).map(({ data }) => data),
        [2, 3]
      )
      t.match(kept.contexts[1], { wasRecovering: true, recovered: true })
      plain.subscription.unsubscribe()
      await until(() => !here.fastify.pgws.channels().some(({ channel }) => channel === 'plain'))
    })
  }
}

for (const transport of TRANSPORTS) {
  t.test(`${transport}: tokens are refreshed and rejected as on a websocket`, async (t) => {
    const { http, lines, fastify } = await build(t, { dbUri: await database() })
    const tokens: string[] = []
    const getToken = async () => {
      tokens.push(rw({ exp: inSeconds(3), n: tokens.length }))
      return tokens.at(-1)!
    }
    const client = streaming(t, transport, { http }, { getToken })
    client.connect()
    await client.ready(30_000)
    const [{ id }] = (await fastify.pgws.connections()) as unknown as [{ id: string }]
    await until(() => tokens.length >= 3)
    await client.publish('a', 1)
    t.match(await fastify.pgws.connections(), [{ id, subject: 'me' }])

    const refused = streaming(t, transport, { http }, { token: 'nonsense' })
    const disconnected = next(refused, 'disconnected')
    refused.connect()
    t.match(await disconnected, { code: 3500, reason: 'invalid token' })
    const expired = streaming(t, transport, { http }, { token: rw({ exp: inSeconds(-5) }), getToken })
    expired.connect()
    await expired.ready(30_000)
    for (const secret of [...tokens, 'nonsense']) t.notOk(lines.some((line) => line.includes(secret)))
  })

  t.test(`${transport}: the server shuts down, or an operator closes a connection`, async (t) => {
    const dbUri = await database()
    const [first, second] = await two(t, { dbUri })
    const client = streaming(t, transport, first, { token: rw() })
    const { subscription } = subscribed(client, 'a')
    client.connect()
    await subscription.ready(30_000)
    const ended = next(client, 'disconnected')
    await second.fastify.pgws.disconnect({ subject: 'me' })
    t.match(await ended, { code: 3503, reason: 'disconnected' })
    await until(() => first.fastify.pgws.channels().length === 0)

    client.connect()
    await subscription.ready(30_000)
    const stranger = await Stream.open(t, `${first.http}/connection/http_stream`, '{"id":1,"connect":{}}\n')
    t.match(await stranger.ended(), { code: 3500 })
    const left = next(client, 'connecting')
    await first.fastify.close()
    t.match(await left, { code: 3001, reason: 'shutdown' })
  })
}

t.test('the SDK falls back to another transport if websockets are blocked', async (t) => {
  const { http } = await build(t, { dbUri: await database() })
  // A proxy that does not pass upgrades.
  const blocked = createServer((_request, response) => response.writeHead(400).end())
  blocked.on('upgrade', (_request, socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  blocked.listen(0, '127.0.0.1')
  await once(blocked, 'listening')
  t.teardown(() => blocked.close())
  const unreachable = `ws://127.0.0.1:${(blocked.address() as AddressInfo).port}`
  for (const [version, Sdk] of Object.entries(SDKS)) {
    for (const transport of TRANSPORTS) {
      const client = new Sdk(
        [
          { transport: 'websocket', endpoint: `${unreachable}/connection/websocket` },
          { transport, endpoint: `${http}/connection/${transport}` }
        ],
        {
          ...BROWSER,
          websocket: (await import('ws')).WebSocket,
          emulationEndpoint: `${http}/emulation`,
          token: rw(),
          minReconnectDelay: 50,
          maxReconnectDelay: 500
        } as never
      )
      t.teardown(() => end(client))
      const { subscription, got } = subscribed(client, 'a')
      client.connect()
      await subscription.ready(30_000)
      await client.publish('a', version)
      await until(() => got.length === 1)
      t.match(got, [{ data: version }])
    }
  }
})

t.test('the format of the streams', async (t) => {
  const { http, fastify } = await build(t, { dbUri: await database(), prefix: '/live' })
  const cf = new URLSearchParams({ cf_connect: connect() })
  const sse = `${http}/live/connection/sse`
  const accept = { accept: 'text/event-stream' }
  for (const stream of [
    await Stream.open(t, `${sse}?${cf}`, '', { method: 'GET', headers: accept }),
    await Stream.open(t, `${sse}?${cf}`, '', { method: 'GET' }),
    await Stream.open(t, sse, connect(), { headers: accept })
  ]) {
    await stream.received(1)
    t.match(stream.response.headers, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': /no-cache/,
      'x-accel-buffering': 'no'
    })
    t.match(stream.text, /^\r\ndata: \{"id":1,"connect":\{.*\}\n\n$/)
  }
  const stream = await Stream.open(
    t,
    `${http}/live/connection/http_stream`,
    `${connect()}\n{"id":2,"subscribe":{"channel":"a"}}\n`,
    { headers: { accept: 'application/json' } }
  )
  const [reply, subscribed] = await stream.received(2)
  t.match(stream.response.headers, { 'cache-control': /no-cache/, 'x-accel-buffering': 'no' })
  t.match(reply, {
    id: 1,
    connect: {
      client: /^[0-9a-f]{16}-\d+$/,
      pong: true,
      session: /^[\w-]{32}$/,
      node: fastify.pgws.nodes()[0]!.id
    }
  })
  t.same(subscribed, { id: 2, subscribe: {} })
  await fastify.pgws.publish('a', 1)
  await until(() => stream.text.includes('"data":1'))
  t.ok(stream.text.endsWith('}\n'))
  t.equal((await stream.send(`${http}/live`, '{}')).status, 204)
  t.equal((await stream.send(`${http}/live`, 'no json')).status, 204)
  t.match(await stream.ended(), { code: 3501, reason: /not JSON/ })
  await until(() => fastify.pgws.channels().length === 0)
})

t.test('rejected requests', async (t) => {
  const dbUri = await database()
  const origins = ['https://app.example']
  const [here, other] = await two(
    t,
    { dbUri, allowedOrigins: origins, maxConnections: 2, maxMessageBytes: 2000 },
    {}
  )
  const { http } = here
  const url = `${http}/connection/http_stream`
  const json = { 'content-type': 'application/json' }
  const body = connect()
  const stream = await Stream.open(t, url, body)
  await stream.received(1)

  t.equal((await fetch(url)).status, 405)
  t.equal((await fetch(url)).headers.get('allow'), 'POST')
  for (const [address, init] of [
    [`${http}/connection/sse`, {}],
    [`${http}/connection/sse`, { headers: { accept: 'text/event-stream' } }],
    [`${http}/connection/sse`, { method: 'POST' }],
    [url, { method: 'POST' }]
  ] as const) {
    const answer = await fetch(address, init)
    t.equal(answer.status, 400)
    t.match(await answer.text(), /must contain commands/)
  }
  t.equal((await fetch(url, { method: 'POST', headers: json, body: 'x'.repeat(2001) })).status, 413)
  t.equal(
    (await fetch(url, { method: 'POST', headers: { ...json, origin: 'https://evil.example' }, body })).status,
    403
  )
  const preflight = await fetch(`${http}/emulation`, {
    method: 'OPTIONS',
    headers: {
      origin: origins[0]!,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'content-type'
    }
  })
  t.match(Object.fromEntries(preflight.headers), {
    'access-control-allow-origin': origins[0],
    'access-control-allow-headers': /content-type/,
    'access-control-allow-methods': /POST/
  })
  const allowed = await Stream.open(t, url, body, { headers: { origin: origins[0]! } })
  t.equal(allowed.response.headers['access-control-allow-origin'], origins[0])
  await allowed.received(1)
  const full = await fetch(url, { method: 'POST', headers: json, body })
  t.equal(full.status, 503)
  t.match(await full.json(), { code: 'FST_PGWS_TOO_MANY_CONNECTIONS' })
  allowed.response.destroy()
  await until(async () => {
    const stream = await Stream.open(t, url, body)
    return stream.response.statusCode === 200
  })

  for (const wrong of ['no json', '[]', 'null', {}, { session: 'x', node: 'y' }, { session: 1 }]) {
    const answer = await post(http, wrong)
    t.equal(answer.status, 400)
    t.match(await answer.json(), { code: 'FST_PGWS_BAD_QUERY' })
  }
  for (const via of [here, other]) {
    t.equal((await stream.send(via.http, '{}')).status, 204)
    t.equal((await stream.send(via.http, '{}', { session: 'another' })).status, 404)
    t.equal((await stream.send(via.http, 'x'.repeat(1500), { session: 'another' })).status, 404)
    t.equal((await stream.send(via.http, '{}', { node: '0'.repeat(16) })).status, 404)
    t.equal((await stream.send(via.http, '{}', { node: 'nonsense' })).status, 404)
    t.equal((await stream.send(via.http, 'x'.repeat(2000))).status, 413)
  }
})

t.test('commands between nodes, large ones included, can be neither read nor forged', async (t) => {
  const dbUri = await migrated('kept')
  const [here, other] = await two(t, { dbUri })
  const channel = nodeChannelOf(LISTEN_CHANNEL)
  const { payloads } = await sqlListener(t, dbUri, channel)
  const stream = await Stream.open(t, `${here.http}/connection/http_stream`, connect())
  const [reply] = await stream.received(1)
  const { session, node } = reply!.connect as { session: string; node: string }
  const publish = (id: number, data: string) =>
    stream.send(other.http, JSON.stringify({ id, publish: { channel: 'kept', data } }))
  // All at once: small commands do not overtake large ones.
  const sent = [publish(2, 'secret'.repeat(20_000)), publish(3, 'secret'), publish(4, 'secret'.repeat(9000))]
  for (const answer of await Promise.all(sent)) t.equal(answer.status, 204)
  await stream.received(4)
  await until(() => payloads.some((payload) => payload.includes('"part"')))
  t.notOk(payloads.some((payload) => payload.includes('secret') || payload.includes(session)))

  // SQL reveals the name of the session, but cannot send commands for it.
  const question = payloads
    .map((payload) => JSON.parse(payload.split('\n')[0]!))
    .find(({ args }) => args?.id)!
  const forge = async (sealed: unknown, id: string) => {
    const from = 'f'.repeat(16)
    const args = { id: question.args.id, sealed }
    const asked = { pgws: 1, from, type: 'question', id, to: node, question: 'commands', args }
    await query(dbUri, 'select pg_notify($1, $2)', [channel, JSON.stringify(asked)])
    const answered = () =>
      payloads.find((payload) =>
        payload.startsWith(`{"pgws":1,"from":"${node}","type":"answer","id":"${id}"`)
      )
    await until(answered)
    return answered()!.split('\n')[1]
  }
  t.equal(await forge('{"id":5,"publish":{"channel":"kept","data":1}}', 'a'), 'false')
  t.equal(await forge(Buffer.alloc(100).toString('base64'), 'b'), 'false')
  t.equal(await forge(5, 'c'), 'false')
  t.equal(stream.lines.length, 4)
})

t.test('a command that was passed between nodes is not accepted a second time', async (t) => {
  const dbUri = await migrated('kept')
  const [here, other] = await two(t, { dbUri })
  const channel = nodeChannelOf(LISTEN_CHANNEL)
  const { payloads } = await sqlListener(t, dbUri, channel)
  const stream = await Stream.open(t, `${here.http}/connection/http_stream`, connect())
  const publish = (id: number, data: string) =>
    stream.send(other.http, JSON.stringify({ id, publish: { channel: 'kept', data } }))
  t.equal((await publish(2, 'first')).status, 204)
  t.equal((await publish(3, 'x'.repeat(20_000))).status, 204)
  t.equal((await publish(4, 'third')).status, 204)
  await stream.received(4)
  const handed = payloads.filter((payload) => /"question":"commands"/.test(payload))
  t.ok(handed.some((payload) => payload.includes('"type":"part"')))
  for (const payload of handed) await query(dbUri, 'select pg_notify($1, $2)', [channel, payload])
  // The form in which an older version would have sent it.
  const { pgws, from, to, args } = JSON.parse(handed[0]!)
  const old = { pgws, from, type: 'question', id: 'old', to, question: 'commands' }
  for (const { sealed, id } of [args]) {
    const text = JSON.stringify({ ...old, args: { id, sealed } })
    await query(dbUri, 'select pg_notify($1, $2)', [channel, text])
  }
  t.equal((await publish(5, 'last')).status, 204)
  await stream.received(5)
  const { rows } = await query(
    dbUri,
    `select count(*)::integer as stored from pgws.history('kept', null, 100)`
  )
  t.same(rows, [{ stored: 4 }])
  t.same(
    stream.lines.map((line) => JSON.parse(line).id),
    [1, 2, 3, 4, 5]
  )
})

t.test('without a session nothing reaches the database', async (t) => {
  const dbUri = await database()
  const [here, other] = await two(t, { dbUri })
  const { payloads } = await sqlListener(t, dbUri, nodeChannelOf(LISTEN_CHANNEL))
  const stream = await Stream.open(t, `${here.http}/connection/http_stream`, connect())
  const [reply] = await stream.received(1)
  const { session } = reply!.connect as { session: string }
  const changed = `${session.startsWith('A') ? 'B' : 'A'}${session.slice(1)}`
  for (const made of [
    'another',
    changed,
    `${session}AAAA`,
    session.slice(1),
    'A'.repeat(32),
    'x'.repeat(5000)
  ]) {
    t.equal((await stream.send(other.http, '{}', { session: made })).status, 404)
  }
  t.equal((await stream.send(other.http, '{}')).status, 204)
  const asked = () => payloads.filter((payload) => /"type":"(question|part)"/.test(payload))
  await until(() => asked().length > 0)
  t.equal(asked().length, 1)
})

t.test('answers 503 to commands for another node while the database is unavailable', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
  const [here, other] = await two(
    t,
    { dbUri, checkListenerInterval: 300 },
    { dbUri: proxy.uri(dbUri), listenerUri: proxy.uri(dbUri) }
  )
  const stream = await Stream.open(t, `${here.http}/connection/http_stream`, connect())
  t.equal((await stream.send(other.http, '{}')).status, 204)
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !other.fastify.pgws.listenerState.up)
  t.equal((await stream.send(other.http, '{}')).status, 503)
  t.equal((await stream.send(here.http, '{}')).status, 204)
  proxy.mode = 'pass'
  await until(async () => (await stream.send(other.http, '{}')).status === 204)
})

t.test('closes a client that does not read its stream, without delaying others', async (t) => {
  const dbUri = await database()
  const { http, fastify } = await build(t, { dbUri, migrate: true, maxBufferedBytes: 50_000 })
  const commands = `${connect()}\n{"id":2,"subscribe":{"channel":"a"}}`
  const slow = await Stream.open(t, `${http}/connection/http_stream`, commands)
  await slow.received(2)
  const client = streaming(t, 'http_stream', { http }, { token: rw() })
  const { subscription, got } = subscribed(client, 'a')
  client.connect()
  await subscription.ready(30_000)
  slow.response.pause()
  const large = 'x'.repeat(500_000)
  for (let i = 0; i < 30; i++) {
    await fastify.pgws.publish('a', `${i}${large}`)
    await until(() => got.length === i + 1)
  }
  t.match(await (await fetch(`${http}/metrics`)).text(), /pgws_slow_closes_total 1\n/)
  await until(async () => (await fastify.pgws.connections()).length === 1)
  slow.response.resume()
  await until(() => slow.response.destroyed)
  t.notOk(slow.response.complete)
})

t.test('a stream may send no faster than a socket, and only a limited amount', async (t) => {
  const dbUri = await database()
  const { http } = await build(t, { dbUri, messageRate: 3, maxBufferedBytes: 20_000 })
  const { payloads } = await sqlListener(t, dbUri)
  const stream = await Stream.open(t, `${http}/connection/http_stream`, connect())
  const publish = (id: number, text = '') =>
    stream.send(http, JSON.stringify({ id, publish: { channel: 'a', data: `${id}${text}` } }))
  const pausedSockets = async () =>
    /pgws_paused_sockets (\d+)/.exec(await (await fetch(`${http}/metrics`)).text())![1]
  const paused = until(async () => (await pausedSockets()) === '1')
  for (let id = 2; id < 14; id++) t.equal((await publish(id)).status, 204)
  await paused
  await stream.received(13)
  await until(() => payloads.length === 12)
  t.same(
    payloads.map((payload) => JSON.parse(payload).payload),
    Array.from({ length: 12 }, (_, i) => String(i + 2))
  )
  for (let id = 14; stream.response.readable && id < 60; id++) await publish(id, 'x'.repeat(1000))
  t.match(await stream.ended(), { code: 3013, reason: 'too many requests' })
})

t.test('sends pings, and closes a client that does not answer them', async (t) => {
  const connections: SdkStreamConnection[] = []
  const server = createServer((_request, response) => {
    response.writeHead(200).flushHeaders()
    const access = {
      channels: [],
      read: true,
      write: true,
      expiresAt: undefined,
      subject: undefined,
      claims: {}
    }
    const options = {
      id: 1,
      remote: { address: '127.0.0.1', userAgent: undefined },
      sender: undefined,
      caller: undefined,
      context: {
        flow: flowControl(1000),
        onEnd() {},
        fallBehind: () => false,
        sent: { messages: 0, bytes: 0 }
      }
    }
    connections.push(
      new SdkStreamConnection(response, SDK_FORMATS.httpStream.json, access, options, () => {})
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const stream = await Stream.open(t, `http://127.0.0.1:${port}`, '')
  const [connection] = connections as [SdkStreamConnection]
  connection.ping()
  connection.ping()
  connection.unanswered = 0
  connection.ping()
  connection.ping()
  t.same(await stream.received(4), [{}, {}, {}, {}])
  connection.ping()
  t.match(await stream.ended(), { code: 3012, reason: 'no pong' })
})

t.test('no log line contains a token or a session, whatever the request', async (t) => {
  const { http, lines } = await build(t, { dbUri: await database(), allowedOrigins: ['https://app.example'] })
  const secret = rw()
  const cf = new URLSearchParams({ cf_connect: JSON.stringify({ id: 1, connect: { token: secret } }) })
  const accept = { accept: 'text/event-stream' }
  const stream = await Stream.open(t, `${http}/connection/sse?${cf}`, '', { method: 'GET', headers: accept })
  const [reply] = await stream.received(1)
  const { session } = reply!.connect as { session: string }
  for (const path of ['connection/sse', 'connection/http_stream', 'emulation']) {
    for (const method of ['GET', 'POST']) {
      for (const headers of [{}, accept, { ...accept, origin: 'https://evil.example' }]) {
        const body = method === 'GET' ? null : `{"session":"${session}","token":"${secret}"`
        const abort = new AbortController()
        const answer = await fetch(`${http}/${path}?${cf}`, { method, headers, body, signal: abort.signal })
        if (answer.status !== 200) {
          const text = await answer.text()
          t.notOk(text.includes(session) || text.includes(secret), `${method} ${path}: ${text}`)
        }
        abort.abort()
      }
    }
  }
  t.equal((await stream.send(http, '{"id":2,"dance":{}}')).status, 204)
  await stream.ended()
  await until(() => lines.some((line) => line.includes('socket refused')))
  t.notOk(lines.find((line) => line.includes(session) || line.includes(secret)))
})
