import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fastifyWebsocket from '@fastify/websocket'
import t from 'tap'
import { build, LISTEN_CHANNEL, open, query, token, until, withPostgres } from '../../support/helper.js'
import { root } from '../../support/root.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const reader = token({ mode: 'r' })

/** Notifies `count` different messages of some 7,900 bytes each. */
const flood = (count: number) =>
  query(
    dbUri,
    `select count(pg_notify($1, json_build_object('channel', 'a', 'n', n, 'payload', repeat('x', 7800))::text))
     from generate_series(1, $2::int) n`,
    [LISTEN_CHANNEL, count]
  )

t.test('closes a client that does not read with 3008, logs it, and delays nobody else', async (t) => {
  const { ws, lines, fastify } = await build(t, { dbUri })
  const slow = await open(t, `${ws}/a/${reader}`)
  const others = await Promise.all([1, 2, 3].map(() => open(t, `${ws}/a/${reader}`)))
  slow.webSocket.pause()
  // More than its limit and the socket buffers on both sides.
  for (let i = 1; i <= 40; i++) {
    await flood(100)
    for (const other of others) await other.received(i * 100)
  }
  await until(() => lines.some((line) => line.includes('does not read')))
  slow.webSocket.resume()
  t.same(await slow.closed(), { code: 3008, reason: 'slow' })
  for (const other of others) {
    t.equal(other.messages.length, 4000)
    t.equal(other.webSocket.readyState, 1)
  }
  await until(() => fastify.pgws.channels()[0]?.connections === 3)
})

t.test('delivers one message that is larger than the limit while nothing else waits', async (t) => {
  const { ws } = await build(t, { dbUri, maxBufferedBytes: 100 })
  const client = await open(t, `${ws}/a/${reader}`)
  await flood(1)
  t.equal((await client.received(1))[0]!.length > 7800, true)
})

const file = (name: string) => readFileSync(join(root, `test/fixtures/${name}`))
const tls = { https: { cert: file('certificate.pem'), key: file('key.pem') } }

for (const [scheme, server] of Object.entries({ ws: {}, wss: tls })) {
  t.test(`${scheme}: frames keep their order with pings and pongs, and a close comes last`, async (t) => {
    const { port, fastify } = await build(t, { dbUri }, { server })
    const client = await open(t, `${scheme}://127.0.0.1:${port}/a/${reader}`, { rejectUnauthorized: false })
    await flood(200)
    client.webSocket.ping('in between')
    await once(client.webSocket, 'pong')
    await client.received(200)
    await flood(200)
    const closed = client.closed()
    await until(() => client.messages.length > 200)
    await fastify.close()
    t.equal((await closed).code, 1001)
    const numbers = client.messages.map((text) => JSON.parse(text).n)
    const counted = (length: number) => Array.from({ length }, (_, i) => i + 1)
    t.same(numbers.slice(0, 200), counted(200))
    t.same(numbers.slice(200), counted(numbers.length - 200))
  })
}

t.test('permessage-deflate works if an operator turns it on', async (t) => {
  const { ws } = await build(
    t,
    { dbUri },
    {
      before: (fastify) =>
        fastify.register(fastifyWebsocket, { options: { perMessageDeflate: { threshold: 0 } } })
    }
  )
  const client = await open(t, `${ws}/a/${reader}`, { perMessageDeflate: true })
  const plain = await open(t, `${ws}/a/${reader}`, { perMessageDeflate: false })
  t.match(client.webSocket.extensions, 'permessage-deflate')
  await flood(50)
  t.same(await client.received(50), await plain.received(50))
})
