import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import fastifyWebsocket from '@fastify/websocket'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { run, started } from '../support/app.js'
import { build, open, SECRET, sqlListener, token, until, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const rw = token({ mode: 'rw' })

const lines = (...all: string[]) => `${all.join('\r\n')}\r\n\r\n`
const get = (url: string, ...headers: string[]) => lines(`GET ${url} HTTP/1.1`, 'Host: x', ...headers)
const websocket = (url: string, ...headers: string[]) =>
  get(
    url,
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    'Sec-WebSocket-Version: 13',
    ...headers
  )
/** The headers that Java's HttpClient sends with each request by default. */
const H2C = [
  'Connection: Upgrade, HTTP2-Settings',
  'Upgrade: h2c',
  'HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA'
]

/** A connection to a port, and what it has received. */
function dial(t: Test, port: number, secure = false) {
  const socket: Socket = secure
    ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
    : connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => socket.destroy())
  const peer = {
    socket,
    text: '',
    ended: false,
    statuses: () => [...peer.text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status))
  }
  socket.on('error', () => {})
  socket.setEncoding('latin1')
  socket.on('data', (chunk) => {
    peer.text += chunk
  })
  socket.on('end', () => {
    peer.ended = true
  })
  socket.on('close', () => {
    peer.ended = true
  })
  return peer
}

t.test('the server continues after a request and an upgrade in one packet, and a reset', async (t) => {
  const app = await started(
    await run(t, { PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET, PGWS_HOST: '127.0.0.1' })
  )
  const port = Number(new URL(app.http).port)
  for (const upgrade of [websocket(`/a/${rw}`), websocket('/nonsense'), get('/health', ...H2C)]) {
    for (let i = 0; i < 5; i++) {
      const { socket } = dial(t, port)
      await once(socket, 'connect')
      socket.write(get('/health') + upgrade)
      // When the server has read it. The answers are on their way.
      await once(socket, 'data')
      socket.resetAndDestroy()
      const other = dial(t, port).socket
      await once(other, 'connect')
      other.write(get('/health') + upgrade, () => other.resetAndDestroy())
    }
  }
  t.equal((await fetch(`${app.http}/health`)).status, 200)
  t.equal(app.child.exitCode, null)
  app.child.kill('SIGTERM')
  t.equal(await app.exit, 0)
})

/** A host with a route that answers when the test allows it. */
function slowly() {
  const answers: (() => void)[] = []
  const before = (fastify: FastifyInstance) => {
    fastify.get('/slow', (_request, reply) => {
      answers.push(() => reply.send('late'))
    })
  }
  return { answers, before }
}

t.test('answers an upgrade after earlier requests on its connection', async (t) => {
  const { answers, before } = slowly()
  const { fastify, port } = await build(t, { dbUri }, { before })
  for (const [upgrade, status] of [
    [websocket(`/a/${rw}`), 101],
    [websocket('/nonsense'), 401],
    [get('/health/live', ...H2C), 200]
  ] as const) {
    const peer = dial(t, port)
    peer.socket.write(get('/slow') + get('/slow') + upgrade)
    await until(() => answers.length === 2)
    // The second answer has to wait for the first, and the upgrade for both.
    answers.pop()!()
    t.same(peer.statuses(), [])
    t.same(fastify.pgws.channels(), [])
    answers.pop()!()
    await until(() => peer.statuses().length === 3)
    t.same(peer.statuses(), [200, 200, status])
    if (status === 101) {
      await until(() => fastify.pgws.channels().length === 1)
      await fastify.pgws.publish('a', 'through it')
      await until(() => peer.text.includes('through it'))
      peer.socket.destroy()
      await until(() => fastify.pgws.channels().length === 0)
    } else {
      await until(() => peer.ended)
    }
  }
})

t.test('an upgrade does not wait forever for earlier requests', async (t) => {
  const { answers, before } = slowly()
  const { port, fastify } = await build(t, { dbUri }, { before, server: { requestTimeout: 300 } })
  for (const upgrade of [websocket(`/a/${rw}`), websocket('/nonsense'), get('/health/live', ...H2C)]) {
    const peer = dial(t, port)
    peer.socket.write(get('/slow') + upgrade)
    await until(() => answers.length === 1)
    await until(() => peer.ended)
    t.same(peer.statuses(), [])
    answers.pop()!()
  }
  t.same(fastify.pgws.channels(), [])
})

const file = (name: string) => readFileSync(join(root, `test/fixtures/${name}`))
const tls = { https: { cert: file('certificate.pem'), key: file('key.pem') } }

for (const [scheme, server] of Object.entries({ http: {}, https: tls })) {
  t.test(`${scheme}: a request to upgrade to another protocol is an ordinary request`, async (t) => {
    const { port } = await build(t, { dbUri }, { server })
    const { payloads } = await sqlListener(t, dbUri)
    const secure = scheme === 'https'

    const health = dial(t, port, secure)
    health.socket.write(get('/health/live', ...H2C))
    await until(() => health.ended)
    t.match(health.text, /^HTTP\/1\.1 200 [\s\S]*connection: close[\s\S]*"ok"/i)

    // The body arrives later, in chunks.
    const publish = dial(t, port, secure)
    const body = JSON.stringify({ channel: 'a', payload: 'é' })
    publish.socket.write(
      `${lines(
        'POST /publish HTTP/1.1',
        'Host: x',
        `Authorization: Bearer ${rw}`,
        'Content-Type: application/json',
        'Transfer-Encoding: chunked',
        ...H2C
      )}5\r\n`
    )
    await new Promise((resolve) => setImmediate(resolve))
    const bytes = Buffer.from(body)
    publish.socket.write(bytes.subarray(0, 5))
    publish.socket.write(`\r\n${(bytes.length - 5).toString(16)}\r\n`)
    publish.socket.write(bytes.subarray(5))
    publish.socket.write('\r\n0\r\n\r\n')
    await until(() => publish.ended)
    t.same(publish.statuses(), [202])
    await until(() => payloads.some((text) => text.includes('é')))

    // A websocket needs GET and HTTP/1.1 (RFC 6455, section 4.2.1).
    const old = dial(t, port, secure)
    old.socket.write(websocket(`/a/${rw}`).replace('HTTP/1.1', 'HTTP/1.0'))
    await until(() => old.ended)
    t.same(old.statuses(), [404])

    const many = dial(t, port, secure)
    many.socket.write(get('/health/live', ...H2C, ...Array.from({ length: 1500 }, () => 'a: b')))
    await until(() => many.ended)
    t.same(many.statuses(), [431])
  })
}

t.test('a rejected upgrade ends its connection, whoever dispatched it', async (t) => {
  for (const order of ['before', 'after'] as const) {
    const { port } = await build(
      t,
      { dbUri },
      { [order]: (host: FastifyInstance) => host.register(fastifyWebsocket) }
    )
    for (const url of ['/nonsense', '/', '/connection/websocket?%', '/%']) {
      const peer = dial(t, port)
      peer.socket.write(websocket(url, 'Origin: http://nowhere').replace('Version: 13', 'Version: 99'))
      await until(() => peer.ended)
      t.match(peer.text, /^HTTP\/1\.1 4/, `${order} ${url}`)
    }
  }
})

t.test('leaves upgrades to other listeners, and ends those that nobody handles', async (t) => {
  const seen: string[] = []
  let taken: Duplex | undefined
  const others = (fastify: FastifyInstance) => {
    fastify.server.on('upgrade', (request, socket) => {
      seen.push(request.url!)
      // It answers after a check that takes a while.
      if (request.url !== '/later') return
      taken = socket
      setTimeout(() => socket.write('HTTP/1.1 101 Later\r\n\r\n'), 100)
    })
  }
  const { port, fastify } = await build(t, { dbUri }, { before: others, server: { requestTimeout: 500 } })
  const nobodys = dial(t, port)
  nobodys.socket.write(websocket('/nobody'))
  const protocol = dial(t, port)
  protocol.socket.write(get('/health', ...H2C))
  const behind = dial(t, port)
  behind.socket.write(get('/health/live') + websocket('/nobody'))
  const later = dial(t, port)
  later.socket.write(websocket('/later'))
  await until(() => nobodys.ended && protocol.ended && behind.ended && later.text !== '')
  t.same([nobodys.text, protocol.text, behind.statuses()], ['', '', [200]])
  t.same([later.text, later.ended], ['HTTP/1.1 101 Later\r\n\r\n', false])
  const client = await open(t, `ws://127.0.0.1:${port}/a/${rw}`)
  await fastify.pgws.publish('a', 'x')
  await client.received(1)
  // They do not receive the plugin's upgrades.
  t.same(seen.sort(), ['/health', '/later', '/nobody', '/nobody'])
  // The other listener has to end it.
  taken!.destroy()
})

t.test('SIGTERM: no connection that has requested an upgrade delays the end', async (t) => {
  const page = (fastify: FastifyInstance) => {
    fastify.get('/page', async () => 'not for sockets')
  }
  const others = (fastify: FastifyInstance) => {
    page(fastify)
    fastify.server.on('upgrade', () => {})
  }
  for (const host of [page, others]) {
    const { port, fastify } = await build(t, { dbUri, shutdownTimeout: 1000 }, { before: host })
    const peers = [
      websocket('/nonsense'),
      websocket(`/a/${rw}`),
      websocket('/page'),
      get('/health', ...H2C),
      get('/health') + websocket('/nonsense'),
      get('/health') + get('/health', ...H2C)
    ].map((request) => {
      const peer = dial(t, port)
      peer.socket.write(request)
      return peer
    })
    await until(() => peers.some(({ text }) => text.includes(' 101 ')))
    await fastify.close()
    await until(() => peers.every(({ ended }) => ended))
    t.pass('it has ended')
  }
})

t.test('never repeats a token that is offered as a subprotocol', async (t) => {
  const { port, lines } = await build(t, { dbUri })
  for (const [url, offered, status, selected] of [
    [`/a/${rw}`, `bearer.${rw}`, 400, undefined],
    [`/a/${rw}`, `Bearer.${rw}, chat`, 400, undefined],
    [`/a/${rw}`, `bearer.${rw}, pgws`, 101, 'pgws'],
    [`/a/${rw}`, 'chat, other', 101, 'chat'],
    ['/?channel=a', `bearer.${rw}, pgws`, 101, 'pgws'],
    ['/connection/websocket', `bearer.${rw}`, 101, undefined]
  ] as const) {
    const peer = dial(t, port)
    peer.socket.write(websocket(url, `Sec-WebSocket-Protocol: ${offered}`))
    await until(() => peer.statuses().length === 1)
    t.equal(peer.statuses()[0], status, `${url} ${offered}`.replaceAll(rw, '…'))
    t.equal(/^sec-websocket-protocol: (.*)$/im.exec(peer.text)?.[1], selected)
    t.notMatch(peer.text, /eyJ/)
    peer.socket.destroy()
  }
  t.notMatch(lines.join(), /eyJ/)
})
