import { once } from 'node:events'
import fastifyWebsocket from '@fastify/websocket'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { WebSocket } from 'ws'
import pgWebsockets, { type PgWebsocketsOptions } from '../../index.js'
import { injectWS } from '../../testing.js'
import { notify, SECRET, sqlListener, token, until, withPostgres } from '../support/helper.js'

const { migrated } = await withPostgres(t)
const dbUri = await migrated()
const rw = token({ mode: 'rw', channels: ['chat'], sub: 'ann' })

/** A host that does not listen, as in tests of applications. */
async function host(t: Test, options: Partial<PgWebsocketsOptions> = {}): Promise<FastifyInstance> {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  await fastify.register(fastifyWebsocket)
  // injectWS of @fastify/websocket leaves connections half open, and closing waits for them.
  fastify.register(pgWebsockets, { dbUri, jwtSecret: SECRET, shutdownTimeout: 500, ...options })
  await fastify.ready()
  return fastify
}

type Inject = (fastify: FastifyInstance, path: string, headers?: Record<string, string>) => Promise<WebSocket>

const ways: Record<string, Inject> = {
  "@fastify/websocket's injectWS": (fastify, path, headers = {}) => fastify.injectWS(path, { headers }),
  'our own injectWS'(fastify, path, { 'sec-websocket-protocol': offered, ...headers } = {}) {
    return injectWS(fastify, path, { headers, ...(offered && { protocols: offered.split(', ') }) })
  }
}

async function next(webSocket: WebSocket): Promise<string> {
  const [data] = await once(webSocket, 'message')
  return String(data)
}

for (const [name, inject] of Object.entries(ways)) {
  t.test(`${name}: clients send and receive, wherever they put the token`, async (t) => {
    const fastify = await host(t)
    const { payloads } = await sqlListener(t, dbUri)
    const handshakes: [string, Record<string, string>?][] = [
      [`/chat/${rw}`],
      [`/${rw}`],
      ['/?channel=chat', { authorization: `Bearer ${rw}` }],
      ['/?channel=chat', { 'sec-websocket-protocol': `pgws, bearer.${rw}` }]
    ]
    for (const [path, headers] of handshakes) {
      const webSocket = await inject(fastify, path, headers)
      const received = next(webSocket)
      await fastify.pgws.publish('chat', 'to the client')
      t.match(await received, /to the client/)
      webSocket.send('to everybody')
      t.match(await next(webSocket), /to everybody/)
      const closed = once(webSocket, 'close')
      webSocket.close(1000)
      t.equal((await closed)[0], 1000)
    }
    await until(() => payloads.some((payload) => payload.includes('to everybody')))
    await until(async () => (await fastify.pgws.connections()).length === 0)
  })

  t.test(`${name}: an SDK connects, subscribes, publishes and receives`, async (t) => {
    const fastify = await host(t)
    const webSocket = await inject(fastify, '/connection/websocket')
    const replies: string[] = []
    webSocket.on('message', (data) => replies.push(...String(data).split('\n')))
    webSocket.send(JSON.stringify({ id: 1, connect: { token: rw } }))
    webSocket.send(JSON.stringify({ id: 2, subscribe: { channel: 'chat' } }))
    await until(() => replies.some((reply) => reply.includes('"id":2')))
    webSocket.send(JSON.stringify({ id: 3, publish: { channel: 'chat', data: 'hello' } }))
    await until(() => replies.some((reply) => reply.includes('"push"') && reply.includes('hello')))
    t.pass()
  })

  t.test(`${name}: an endpoint for audiences`, async (t) => {
    const fastify = await host(t, { endpoints: [{ path: '/ws', channels: ['news'], public: true }] })
    const webSocket = await inject(fastify, '/ws')
    const received = next(webSocket)
    await notify(dbUri, 'default,{"text":"fresh"}', 'news')
    t.match(await received, /fresh/)
  })

  t.test(`${name}: a refused client receives the reason`, async (t) => {
    const fastify = await host(t)
    await t.rejects(inject(fastify, `/chat/${token({ mode: 'rw' }, 'another secret of thirty-two byte')}`), {
      message: 'Unexpected server response: 401'
    })
  })

  t.test(`${name}: close() of the server closes injected clients, and resolves`, async (t) => {
    const fastify = await host(t)
    const webSocket = await inject(fastify, `/chat/${rw}`)
    const closed = once(webSocket, 'close')
    await fastify.close()
    t.equal((await closed)[0], 1001)
  })
}

/** What has arrived of an injected answer. */
function collect(stream: NodeJS.ReadableStream): { text: string; ended: Promise<unknown> } {
  const collected = { text: '', ended: once(stream, 'end') }
  stream.on('data', (chunk) => {
    collected.text += chunk
  })
  return collected
}

t.test('inject: an event stream delivers, and ends with the server', async (t) => {
  const fastify = await host(t)
  const response = await fastify.inject({
    url: `/chat/${rw}`,
    headers: { accept: 'text/event-stream' },
    payloadAsStream: true
  })
  t.equal(response.statusCode, 200)
  t.match(response.headers['content-type'], /^text\/event-stream/)
  const events = collect(response.stream())
  await fastify.pgws.publish('chat', 'first')
  await until(() => events.text.includes('first'))
  await fastify.pgws.publish('chat', 'second')
  await until(() => events.text.includes('second'))
  t.equal((await fastify.pgws.connections()).length, 1)
  await fastify.close()
  await events.ended
})

t.test('inject: an event stream ends when its reader leaves', async (t) => {
  const fastify = await host(t)
  const abort = new AbortController()
  const response = await fastify.inject({
    url: `/chat/${rw}`,
    headers: { accept: 'text/event-stream' },
    payloadAsStream: true,
    signal: abort.signal
  })
  const stream = response.stream()
  stream.on('error', () => {})
  t.equal((await fastify.pgws.connections()).length, 1)
  abort.abort()
  await fastify.pgws.publish('chat', 'to nobody')
  await until(async () => (await fastify.pgws.connections()).length === 0)
})

t.test('inject: more than the buffer of a stream arrives when it is read', async (t) => {
  const fastify = await host(t)
  const response = await fastify.inject({
    url: `/chat/${rw}`,
    headers: { accept: 'text/event-stream' },
    payloadAsStream: true
  })
  const payload = 'x'.repeat(5000)
  for (let i = 0; i < 40; i++) await fastify.pgws.publish('chat', `${payload}${i}.`)
  const events = collect(response.stream())
  await until(() => events.text.includes('x39.'))
  for (let i = 0; i < 40; i++) t.ok(events.text.includes(`x${i}.`))
})

for (const [transport, method] of [
  ['sse', 'GET'],
  ['sse', 'POST'],
  ['http_stream', 'POST']
] as const) {
  t.test(`inject: an SDK over ${transport} (${method})`, async (t) => {
    const fastify = await host(t)
    const connect = JSON.stringify({ id: 1, connect: { token: rw } })
    const query = method === 'GET' ? `?cf_connect=${encodeURIComponent(connect)}` : ''
    const response = await fastify.inject({
      method,
      url: `/connection/${transport}${query}`,
      ...(method === 'POST' && { payload: connect, headers: { 'content-type': 'application/json' } }),
      payloadAsStream: true
    })
    const replies = collect(response.stream())
    await until(() => replies.text.includes('"session"'))
    const { session, node } = JSON.parse(/\{.*\}/.exec(replies.text)![0]).connect
    const emulate = (command: object) =>
      fastify.inject({
        method: 'POST',
        url: '/emulation',
        payload: { session, node, data: JSON.stringify(command) }
      })
    t.equal((await emulate({ id: 2, subscribe: { channel: 'chat' } })).statusCode, 204)
    await until(() => replies.text.includes('"id":2'))
    await fastify.pgws.publish('chat', 'hello')
    await until(() => replies.text.includes('hello'))
    await fastify.close()
    await replies.ended
  })
}
