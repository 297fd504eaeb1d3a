import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { build, LISTEN_CHANNEL, open, query, token, until, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const reader = token({ mode: 'r' })
const rw = token({ mode: 'rw' })

const file = (name: string) => readFileSync(join(root, `test/fixtures/${name}`))
const tls = { https: { cert: file('certificate.pem'), key: file('key.pem') } }

/** Notifies messages in one transaction, so that they arrive as fast as PostgreSQL sends them. */
const burst = (count: number, size: number, channel = 'a') =>
  query(
    dbUri,
    `select count(pg_notify($1, json_build_object('channel', $4::text, 'n', n, 'payload', repeat('x', $3::int))::text))
     from generate_series(1, $2::int) n`,
    [LISTEN_CHANNEL, count, size, channel]
  )

/** A client that only counts what it reads, so that many can read at full speed. */
class Counting {
  readonly socket: Socket
  bytes = 0
  closed = false
  /** Reads one chunk each time it is resumed. */
  hesitant = false

  private constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk) => {
      this.bytes += chunk.length
      if (this.hesitant) socket.pause()
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.closed = true
    })
  }

  /** @param then is sent after the head of the answer, which does not count */
  static async open(t: Test, port: number, head: string, secure = false, then?: Buffer): Promise<Counting> {
    const socket = secure
      ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
      : connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.on('error', () => {})
    await once(socket, secure ? 'secureConnect' : 'connect')
    socket.write(`${head}\r\nHost: 127.0.0.1\r\n`)
    if (!head.includes('text/event-stream')) {
      socket.write(
        'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'
      )
    }
    socket.write('\r\n')
    await once(socket, 'data')
    const client = new Counting(socket)
    if (then !== undefined) socket.write(then)
    return client
  }
}

/** A text as a client's frame (RFC 6455, section 5.2), under a mask of zeroes. */
function masked(text: string): Buffer {
  const bytes = Buffer.from(text)
  const head = Buffer.from([0x81, 0xfe, bytes.length >> 8, bytes.length & 0xff, 0, 0, 0, 0])
  return Buffer.concat([head, bytes])
}

/** `{}` as a client's frame. */
const PONG = Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x7b, 0x7d])

const subscribe = `${JSON.stringify({ id: 1, connect: { token: rw } })}\n{"id":2,"subscribe":{"channel":"a"}}`

const KINDS: Record<string, (t: Test, port: number) => Promise<Counting>> = {
  'a websocket': (t, port) => Counting.open(t, port, `GET /a/${reader} HTTP/1.1`),
  'a websocket over TLS': (t, port) => Counting.open(t, port, `GET /a/${reader} HTTP/1.1`, true),
  'an event stream': (t, port) =>
    Counting.open(t, port, `GET /a/${reader} HTTP/1.1\r\nAccept: text/event-stream`),
  async "an SDK's websocket"(t, port) {
    const client = await Counting.open(
      t,
      port,
      'GET /connection/websocket HTTP/1.1',
      false,
      masked(subscribe)
    )
    // Without pongs, it would be closed after some pings.
    const answering = setInterval(() => client.socket.write(PONG), 10_000)
    t.teardown(() => clearInterval(answering))
    return client
  }
}

for (const [kind, openOne] of Object.entries(KINDS)) {
  t.test(`${kind}: a burst at full speed closes only clients that do not read`, async (t) => {
    const { port, fastify, lines } = await build(
      t,
      // However busy the machine is. Replacing the listener would end the subscriptions of an SDK.
      { dbUri, slowTimeout: 60_000, checkListenerInterval: 0 },
      { server: kind.includes('TLS') ? (tls as FastifyServerOptions) : {} }
    )
    const readers = await Promise.all(Array.from({ length: 8 }, () => openOne(t, port)))
    const idle = await openOne(t, port)
    await until(() => fastify.pgws.channels()[0]?.readers === 9)
    const slow = () => lines.filter((line) => line.includes('does not read'))
    const closed = () => readers.filter(({ closed }) => closed).length
    const got = (bytes: number) => () => closed() > 0 || readers.every((reader) => reader.bytes > bytes)

    await burst(20_000, 250)
    await until(got(20_000 * 250), 60_000)
    t.equal(closed(), 0)
    // As clients that are busy with other work, each reads a little at a time.
    for (const reader of readers) reader.hesitant = true
    const reading = setInterval(() => {
      for (const { socket } of readers) socket.resume()
    }, 2)
    t.teardown(() => clearInterval(reading))
    await burst(20_000, 600)
    await until(got(20_000 * 600), 60_000)
    t.equal(closed(), 0)

    for (const reader of readers) reader.hesitant = false
    idle.socket.pause()
    // More than the buffers of the operating system hold.
    for (let bursts = 0; bursts < 10 && slow().length === 0; bursts++) {
      const before = Math.max(...readers.map(({ bytes }) => bytes))
      await burst(5000, 1000)
      await until(got(before), 60_000)
    }
    await until(() => slow().length > 0, 90_000)
    t.equal(slow().length, 1, `${slow()}`)
    t.equal(closed(), 0)
    idle.socket.destroy()
    await until(() => fastify.pgws.channels()[0]!.readers === 8)
  })
}

t.test(
  'closes a client that reads, but too slowly, after a while, and not one that catches up',
  async (t) => {
    const { port, lines, fastify } = await build(t, {
      dbUri,
      maxBufferedBytes: 100_000_000 / 16,
      slowTimeout: 4000
    })
    const [steady, catching] = await Promise.all(
      [1, 2].map(() => Counting.open(t, port, `GET /a/${reader} HTTP/1.1`))
    )
    await until(() => fastify.pgws.channels()[0]?.readers === 2)
    const reasons = () =>
      lines.filter((line) => line.includes('does not read')).map((line) => JSON.parse(line).reason)
    catching!.socket.pause()
    // A little at a time, so that it reads, but does not catch up.
    steady!.hesitant = true
    const reading = setInterval(() => steady!.socket.resume(), 20)
    t.teardown(() => clearInterval(reading))
    await burst(10_000, 3000)
    catching!.socket.resume()
    await until(() => catching!.bytes > 10_000 * 3000, 60_000)
    await until(() => reasons().length === 1, 60_000)
    t.same(reasons(), ['behind'])
    t.equal(catching!.closed, false)
  }
)

t.test('limits what waits for all clients together, and first closes those that read nothing', async (t) => {
  const total = 8 * 1024 * 1024
  const { ws, lines, fastify, http } = await build(t, {
    dbUri,
    maxBufferedBytes: 64 * 1024 * 1024,
    maxTotalBufferedBytes: total
  })
  const good = await open(t, `${ws}/a/${reader}`)
  const clients = await Promise.all(Array.from({ length: 6 }, (_, n) => open(t, `${ws}/own${n}/${reader}`)))
  for (const { webSocket } of clients) webSocket.pause()
  const waiting = async () => {
    const metrics = await (await fetch(`${http}/metrics`)).text()
    return Number(/^pgws_buffered_bytes (\d+)/m.exec(metrics)![1])
  }
  const reasons = () =>
    lines.filter((line) => line.includes('does not read')).map((line) => JSON.parse(line).reason)
  let rounds = 0
  while (reasons().length === 0 && rounds++ < 30) {
    for (let n = 0; n < clients.length; n++) await burst(150, 7000, `own${n}`)
    await burst(1, 7000)
    await good.received(rounds)
    t.ok((await waiting()) <= total)
  }
  t.ok(reasons().length >= 1 && reasons().every((reason) => reason === 'total'), `${reasons()}`)
  await until(
    () => fastify.pgws.channels().reduce((sum, { readers }) => sum + readers, 0) === 7 - reasons().length
  )
  t.equal(good.webSocket.readyState, 1)
})

t.test('bytes that are written to many clients at once count once', async (t) => {
  const { ws, port, lines, fastify, http } = await build(t, {
    dbUri,
    maxBufferedBytes: 64 * 1024 * 1024,
    maxTotalBufferedBytes: 40 * 1024 * 1024
  })
  const clients = await Promise.all(
    Array.from({ length: 20 }, () => Counting.open(t, port, `GET /a/${reader} HTTP/1.1`))
  )
  await until(() => fastify.pgws.channels()[0]?.readers === 20)
  for (const { socket } of clients) socket.pause()
  // 20 MB for each of them, of which the operating system takes some.
  await burst(3000, 7000)
  const watching = await open(t, `${ws}/b/${reader}`)
  await burst(1, 10, 'b')
  await watching.received(1)
  const metrics = await (await fetch(`${http}/metrics`)).text()
  const waiting = Number(/^pgws_buffered_bytes (\d+)/m.exec(metrics)![1])
  t.ok(waiting > 5_000_000 && waiting < 25_000_000, `${waiting} bytes wait`)
  for (const { socket } of clients) socket.resume()
  await until(() => clients.every(({ bytes }) => bytes > 3000 * 7000), 30_000)
  t.notOk(lines.some((line) => line.includes('does not read')))
  await until(async () => /^pgws_buffered_bytes 0$/m.test(await (await fetch(`${http}/metrics`)).text()))
})

t.test('answers to history requests that are not read count, and are ended beyond the limit', async (t) => {
  const own = await database()
  const { port, http, lines } = await build(t, {
    dbUri: own,
    migrate: true,
    maxTotalBufferedBytes: 60 * 1024 * 1024
  })
  await query(own, `select pgws.retain('a', '1 hour')`)
  await query(
    own,
    `select pgws.publish_text('a', n || repeat(md5(n::text), 31250)) from generate_series(1, 10) n`
  )
  const stuck: Socket[] = []
  for (let n = 0; n < 12; n++) {
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.on('error', () => {})
    await once(socket, 'connect')
    socket.write(`GET /channels/a/history HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${reader}\r\n\r\n`)
    await once(socket, 'readable')
    stuck.push(socket)
  }
  await until(() => lines.some((line) => line.includes('"reason":"total"')))
  const response = await fetch(`${http}/channels/a/history?limit=1`, {
    headers: { authorization: `Bearer ${reader}` }
  })
  t.equal(((await response.json()) as { messages: unknown[] }).messages.length, 1)
})
