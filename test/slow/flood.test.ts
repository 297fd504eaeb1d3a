import { setImmediate as nextTurn } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Gauge } from 'prom-client'
import t, { type Test } from 'tap'
import { build, type Client, open, token, until, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()

/** A client of the SDK's protocol, without the SDK. */
async function connected(t: Test, ws: string, claims: object = {}): Promise<Client> {
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(JSON.stringify({ id: 1, connect: { token: token({ mode: 'rw', sub: 'me', ...claims }) } }))
  await client.received(1)
  return client
}

const lines = (count: number, command: object) =>
  Array.from({ length: count }, (_, i) => JSON.stringify({ id: i + 2, ...command })).join('\n')

/**
 * Resolves once this many clients are paused. It checks in each turn of the event loop, because a pause may
 * last only a few of them.
 */
async function untilPaused(fastify: FastifyInstance, count: number): Promise<void> {
  const gauge = fastify.pgws.metrics.registry.getSingleMetric('pgws_paused_sockets') as Gauge
  while ((await gauge.get()).values[0]!.value !== count) await nextTurn()
}

/** The replies so far; `{}` is a ping. */
const answers = (client: Client) => client.messages.filter((text) => text !== '{}')
const idsOf = (client: Client) => answers(client).map((text) => JSON.parse(text).id)
const upTo = (last: number) => Array.from({ length: last }, (_, i) => i + 1)

for (const [name, count, command] of [
  ['rpc', 46_000, { rpc: {} }],
  ['publish', 20_000, { publish: { channel: 'b', data: 1 } }],
  ['subscribe', 20_000, { subscribe: { channel: 'b' } }],
  ['presence', 20_000, { presence: { channel: 'b' } }]
] as const) {
  t.test(`${count} times ${name} in one frame are answered while others are served`, async (t) => {
    // High enough not to slow the test down.
    const { ws, http } = await build(t, { dbUri, messageRate: 1_000_000 })
    const other = await open(t, `${ws}/a/${token({ mode: 'rw' })}`)
    const client = await connected(t, ws, { channels: ['a'] })
    client.send(lines(count, command))
    await client.received(2)
    const ponged = new Promise((resolve) => other.webSocket.once('pong', resolve))
    other.webSocket.ping()
    other.send('hello')
    await Promise.all([ponged, other.received(1), fetch(`${http}/health/live`)])
    t.ok(client.messages.length < count + 1, `${client.messages.length} answers until then`)
    await until(() => client.messages.length > count && answers(client).length === count + 1)
    t.same(
      idsOf(client).sort((a, b) => a - b),
      upTo(count + 1)
    )
  })
}

t.test('every command counts towards messageRate, rejected ones and lines of one frame too', async (t) => {
  const { ws, fastify } = await build(t, { dbUri, messageRate: 20 })
  const client = await connected(t, ws)
  client.send(lines(29, { rpc: {} }))
  await untilPaused(fastify, 1)
  t.ok(client.messages.length < 30)
  await until(() => answers(client).length === 30)
  await untilPaused(fastify, 0)
  t.same(idsOf(client), upTo(30))
  client.send(JSON.stringify({ id: 31, ping: {} }))
  await until(() => answers(client).length === 31)
})

t.test('the limit applies to clients that have not connected yet, too', async (t) => {
  const { ws, fastify } = await build(t, { dbUri, messageRate: 20 })
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(lines(29, { connect: { token: token({ mode: 'r', exp: 1 }) } }))
  await untilPaused(fastify, 1)
  await until(() => answers(client).length === 29)
  t.ok(answers(client).every((text) => JSON.parse(text).error.code === 109))
})

t.test('without messageRate, pauses a client that sends faster than any honest one', async (t) => {
  const { ws, fastify } = await build(t, { dbUri })
  const client = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  for (let i = 0; i < 7000; i++) client.send(String(i))
  await untilPaused(fastify, 1)
  await untilPaused(fastify, 0)
  t.equal(client.webSocket.readyState, client.webSocket.OPEN)
})

t.test('publishes what a client has sent before its ConnectionClose event', async (t) => {
  const { ws, fastify } = await build(t, { dbUri, messageRate: 10, metaChannel: 'meta' })
  const events: string[] = []
  fastify.pgws.subscribe('meta', (text) => events.push(JSON.parse(text).event))
  fastify.pgws.subscribe('a', (text) => events.push(JSON.parse(text).payload))
  const client = await open(t, `${ws}/a/${token({ mode: 'w' })}`)
  for (let i = 0; i < 50; i++) client.send(String(i))
  client.webSocket.close()
  await until(() => events.includes('ConnectionClose'))
  t.same(events, ['ConnectionOpen', ...Array.from({ length: 50 }, (_, i) => String(i)), 'ConnectionClose'])
})

t.test('pings count, too', async (t) => {
  const { ws, fastify } = await build(t, { dbUri, messageRate: 5 })
  for (const client of [await open(t, `${ws}/a/${token({ mode: 'r' })}`), await connected(t, ws)]) {
    for (let i = 0; i < 10; i++) client.webSocket.ping()
    await untilPaused(fastify, 1)
    await untilPaused(fastify, 0)
    t.equal(client.webSocket.readyState, client.webSocket.OPEN)
  }
})
