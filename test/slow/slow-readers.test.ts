import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import fastifyWebsocket from '@fastify/websocket'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { FlowControl } from '../../lib/flow/flow-control.js'
import { EventStream } from '../../lib/protocols/event-stream/connection.js'
import { type Stream, stream } from '../support/event-stream.js'
import { build, LISTEN_CHANNEL, notify, open, query, token, until, withPostgres } from '../support/helper.js'
import { raw, sdk, subscribed } from '../support/sdk.js'

const { migrated } = await withPostgres(t)
const jwt = token({ mode: 'r', sub: 'me' })

const MIB = 2 ** 20
/** The maximum that waits for a client: maxBufferedBytes, and a page of stored messages with its frames. */
const BOUND = 2.5 * MIB

/** A server with the durable channels `a` and `b`, and a function that publishes there. */
async function server(t: Test, options: object = {}, before?: (fastify: FastifyInstance) => unknown) {
  const dbUri = await migrated('a', 'b')
  const app = await build(t, { dbUri, maxBufferedBytes: MIB, ...options }, before && { before })
  let published = 0
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  /** Publishes numbered messages of `bytes` bytes, to each of the channels in turn. */
  const publish = async (count: number, bytes = 100_000, channels = ['a']) => {
    await sql(
      `select pgws.publish_text(($4::text[])[1 + n % cardinality($4)], n || repeat('x', $3))
       from generate_series($1::int + 1, $1 + $2::int) n`,
      [published, count, bytes, channels]
    )
    published += count
    await sql('select pgws.catch_up()')
  }
  const metric = async (name: string) => {
    const text = await (await fetch(`${app.http}/metrics`)).text()
    return Number(new RegExp(`^pgws_${name} (.*)$`, 'm').exec(text)![1])
  }
  return { ...app, dbUri, sql, publish, metric, count: () => published }
}

/** The number at the beginning of a text. */
const numberOf = (text: string) => Number.parseInt(text, 10)
const upTo = (count: number) => Array.from({ length: count }, (_, n) => n + 1)
const payloadsOf = (messages: string[]) => messages.map((text) => numberOf(JSON.parse(text).payload))

/** Publishes 24 MB that a client does not read. Checks that the server buffers no more than the bound. */
async function flood(
  t: Test,
  { publish, metric, fastify }: Awaited<ReturnType<typeof server>>,
  channels?: string[]
) {
  let most = 0
  for (let batch = 0; batch < 20; batch++) {
    await publish(12, 100_000, channels)
    for (const { bufferedBytes } of await fastify.pgws.connections()) most = Math.max(most, bufferedBytes)
    most = Math.max(most, await metric('buffered_bytes'))
  }
  await until(async () => (await metric('slow_catch_ups_total')) > 0)
  t.ok(most > 0)
  t.ok(most < BOUND, `${most} bytes waited`)
  t.equal(await metric('slow_closes_total'), 0)
}

t.test('a websocket that stops reading costs little memory, and receives all in order', async (t) => {
  const app = await server(t)
  const { ws, publish, metric, count } = app
  const client = await open(t, `${ws}/${token({ mode: 'r', channels: ['a', 'b'] })}`)
  client.webSocket.pause()
  await flood(t, app, ['a', 'b'])
  client.webSocket.resume()
  // More is published while it catches up.
  for (let batch = 0; batch < 10; batch++) await publish(20, 20_000, ['a', 'b'])
  await client.received(count())
  t.same(payloadsOf(client.messages), upTo(count()))
  t.equal(await metric('slow_closes_total'), 0)
  // From now on, it receives messages directly again.
  await until(async () => (await metric('buffered_bytes')) === 0)
  const before = await metric('slow_catch_ups_total')
  await publish(3, 10)
  await client.received(count())
  t.same(payloadsOf(client.messages), upTo(count()))
  t.equal(await metric('slow_catch_ups_total'), before)
})

t.test(
  'an event stream that stops reading costs little memory, and receives everything in order',
  async (t) => {
    const app = await server(t)
    const { http, publish, count } = app
    const client = await stream(t, `${http}/a/${jwt}`)
    client.response.pause()
    await flood(t, app)
    client.response.resume()
    for (let batch = 0; batch < 10; batch++) await publish(20, 20_000)
    const events = await client.received(count())
    t.same(payloadsOf(events.map(({ data }) => data)), upTo(count()))
  }
)

t.test(
  'an SDK that stops reading receives everything of durable channels, and others as before',
  async (t) => {
    const app = await server(t)
    const { ws, fastify, publish, count, metric } = app
    const client = sdk(t, ws, { token: jwt })
    const [a, b, passing] = ['a', 'b', 'passing'].map((channel) => subscribed(client, channel)) as [
      ReturnType<typeof subscribed>,
      ReturnType<typeof subscribed>,
      ReturnType<typeof subscribed>
    ]
    client.connect()
    for (const { subscription } of [a, b, passing]) await subscription.ready(30_000)
    raw(client)!.pause()
    await flood(t, app, ['a', 'b'])
    raw(client)!.resume()
    for (let batch = 0; batch < 10; batch++) await publish(20, 20_000, ['a', 'b'])
    await until(() => a.got.length + b.got.length >= count())
    await fastify.pgws.publish('passing', 'after')
    await until(() => passing.got.length === 1)
    const numbers = ({ got }: typeof a) => got.map(({ data }) => numberOf(data as string))
    t.same(
      numbers(a),
      upTo(count()).filter((n) => n % 2 === 0)
    )
    t.same(
      numbers(b),
      upTo(count()).filter((n) => n % 2 === 1)
    )
    t.equal(a.contexts.length + b.contexts.length, 2, 'neither subscription was interrupted')
    t.equal(await metric('slow_closes_total'), 0)
  }
)

t.test('compressed messages arrive once and in order, too', async (t) => {
  const { ws, sql, metric, fastify } = await server(t, {}, (instance) =>
    instance.register(fastifyWebsocket, { options: { perMessageDeflate: { threshold: 0 } } })
  )
  const client = await open(t, `${ws}/a/${jwt}`, { perMessageDeflate: true })
  t.match(client.webSocket.extensions, 'permessage-deflate')
  client.webSocket.pause()
  let most = 0
  for (let batch = 0; batch < 6; batch++) {
    // Texts that hardly compress.
    await sql(
      `with noise as (select string_agg(md5(random()::text), '') as text from generate_series(1, 3000))
       select pgws.publish_text('a', n || '|' || text) from noise, generate_series($1::int, $1 + 49) n`,
      [1 + batch * 50]
    )
    await sql('select pgws.catch_up()')
    for (const { bufferedBytes } of await fastify.pgws.connections()) most = Math.max(most, bufferedBytes)
  }
  await until(async () => (await metric('slow_catch_ups_total')) > 0)
  client.webSocket.resume()
  await client.received(300)
  t.same(payloadsOf(client.messages), upTo(300))
  t.ok(most < BOUND, `${most} bytes waited`)
})

t.test('pings end an event stream that reads nothing of what waits for it', async (t) => {
  const slow: string[] = []
  const gone: number[] = []
  const flow = new FlowControl({
    maxBufferedBytes: MIB,
    maxTotalBufferedBytes: 2 ** 28,
    slowTimeout: 5000,
    onSlow: (_, reason) => slow.push(reason)
  })
  const context = {
    flow,
    onEnd: (_: unknown, code: number) => gone.push(code),
    fallBehind: () => false,
    sent: { messages: 0, bytes: 0 }
  }
  const access = { channels: ['a'], read: true, write: false, expiresAt: undefined, claims: {} }
  const options = {
    id: 1,
    remote: { address: '127.0.0.1', userAgent: undefined },
    sender: undefined,
    caller: undefined,
    context
  }
  const connections: EventStream[] = []
  const http = createServer((_, response) => {
    response.flushHeaders()
    connections.push(new EventStream(response, access, options))
  })
  await once(http.listen(0, '127.0.0.1'), 'listening')
  t.teardown(() => http.close())
  const client = await stream(t, `http://127.0.0.1:${(http.address() as AddressInfo).port}/`)
  client.response.pause()
  const [connection] = connections as [EventStream]
  const frame = connection.format.encode({ channel: 'a', text: 'x'.repeat(20_000_000) })
  connection.deliver([frame], frame.bytes)
  for (let n = 0; n < 5; n++) connection.ping()
  t.equal(connection.open, true)
  // As if it had read nothing for a minute.
  connection.waiting!.stalled = 240
  connection.ping()
  t.same(slow, ['stalled'])
  await until(() => gone.length === 1)
  t.same(gone, [3008])
})

t.test('a subscription that ends while it catches up receives nothing more, and can restart', async (t) => {
  const app = await server(t)
  const { ws, publish, count, metric } = app
  const client = sdk(t, ws, { token: jwt })
  const { subscription, got } = subscribed(client, 'a')
  client.connect()
  await subscription.ready(30_000)
  raw(client)!.pause()
  for (let batch = 0; batch < 5; batch++) await publish(30)
  await until(async () => (await metric('slow_catch_ups_total')) === 1)
  subscription.unsubscribe()
  raw(client)!.resume()
  subscription.subscribe()
  await subscription.ready(30_000)
  await publish(1)
  await until(() => got.some(({ data }) => numberOf(data as string) === count()))
  const numbers = got.map(({ data }) => numberOf(data as string))
  t.same(numbers, upTo(count()).slice(-numbers.length), 'from its last position on')
})

/** Keeps only the last messages of `a`. */
async function trim({ sql }: { sql: (text: string) => Promise<unknown> }) {
  await sql(`select pgws.retain('a', '1 hour', 10)`)
  await sql('select pgws.clean()')
}

for (const [name, connect] of Object.entries({
  'a websocket': async (t: Test, { ws }: { ws: string }, since: string) => {
    const client = await open(t, `${ws}/a/${jwt}${since}`)
    return {
      pause: () => client.webSocket.pause(),
      resume: () => client.webSocket.resume(),
      closed: () => client.closed(),
      messages: () => client.messages
    }
  },
  'an event stream': async (t: Test, { http }: { http: string }, since: string) => {
    const client: Stream = await stream(t, `${http}/a/${jwt}${since}`)
    return {
      pause: () => client.response.pause(),
      resume: () => client.response.resume(),
      closed: () => client.ended,
      messages: () => client.events.map(({ data }) => data)
    }
  }
})) {
  t.test(
    `${name} whose messages are deleted before it reads them is closed, and receives the gap`,
    async (t) => {
      const app = await server(t)
      const { publish, metric } = app
      const slow = await connect(t, app, '')
      await publish(1)
      await until(() => slow.messages().length === 1)
      slow.pause()
      for (let batch = 0; batch < 5; batch++) await publish(30)
      await until(async () => (await metric('slow_catch_ups_total')) === 1)
      await trim(app)
      const closed = slow.closed()
      slow.resume()
      const end = await closed
      if (name === 'a websocket') t.same(end, { code: 3008, reason: 'slow' })
      await until(() => app.lines.some((line) => line.includes('"code":3008')))
      t.equal(await metric('slow_closes_total'), 1)
      const got = payloadsOf(slow.messages())
      t.same(got, upTo(got.length), 'without a gap up to the end')
      const last = JSON.parse(slow.messages().at(-1)!).id
      const again = await connect(t, app, `?since=${last}`)
      await until(() => again.messages().length > 0)
      t.match(JSON.parse(again.messages()[0]!), { event: 'HistoryGap', payload: { requested: last } })
    }
  )

  t.test(`${name} whose missed messages are deleted while it resumes is closed, too`, async (t) => {
    const app = await server(t)
    const { publish } = app
    for (let batch = 0; batch < 5; batch++) await publish(30)
    const slow = await connect(t, app, '?since=earliest')
    slow.pause()
    // After as much was sent as the buffers hold.
    const waiting = async () => (await app.fastify.pgws.connections())[0]!.bufferedBytes
    await until(async () => (await waiting()) > 0)
    await trim(app)
    slow.resume()
    await until(() => app.lines.some((line) => line.includes('"code":3008')))
    const got = payloadsOf(slow.messages())
    t.same(got, upTo(got.length), 'without a gap up to the end')
  })
}

t.test(
  'an SDK whose messages are deleted before it reads them subscribes again, and knows of the gap',
  async (t) => {
    const app = await server(t)
    const { ws, publish, count, metric } = app
    const client = sdk(t, ws, { token: jwt })
    const { subscription, got, contexts } = subscribed(client, 'a')
    const left: { code: number }[] = []
    subscription.on('subscribing', (context) => left.push(context))
    client.connect()
    await subscription.ready(30_000)
    await publish(1)
    await until(() => got.length === 1)
    raw(client)!.pause()
    for (let batch = 0; batch < 5; batch++) await publish(30)
    await until(async () => (await metric('slow_catch_ups_total')) === 1)
    await trim(app)
    raw(client)!.resume()
    await until(() => contexts.length === 2)
    t.match(contexts[1], { wasRecovering: true, recovered: false })
    t.match(left.at(-1), { code: 2500 })
    await publish(1)
    await until(() => got.some(({ data }) => numberOf(data as string) === count()))
    const numbers = got.map(({ data }) => numberOf(data as string))
    t.same(numbers.slice(0, -1), upTo(numbers.length - 1), 'without a gap up to the end')
  }
)

t.test('a slow websocket that also reads a channel that is not durable is closed', async (t) => {
  const { ws, publish, metric } = await server(t)
  const slow = await open(t, `${ws}/${token({ mode: 'r', channels: ['a', 'passing'] })}`)
  slow.webSocket.pause()
  for (let batch = 0; batch < 5; batch++) await publish(30)
  await until(async () => (await metric('slow_closes_total')) === 1)
  const closed = slow.closed()
  slow.webSocket.resume()
  t.match(await closed, { code: 3008 })
  t.equal(await metric('slow_catch_ups_total'), 0)
})

t.test('messages that are not stored wait while a client catches up, up to the bound', async (t) => {
  const { ws, publish, metric, dbUri, count } = await server(t, { maxBufferedBytes: MIB / 4 })
  const [patient, drowned] = [await open(t, `${ws}/a/${jwt}`), await open(t, `${ws}/b/${jwt}`)]
  for (const { webSocket } of [patient, drowned]) webSocket.pause()
  for (let batch = 0; batch < 5; batch++) await publish(30, 100_000, ['a', 'b'])
  await until(async () => (await metric('slow_catch_ups_total')) === 2)
  // Notified directly, so that they are not stored.
  const plain = (channel: string) => notify(dbUri, JSON.stringify({ channel, payload: '0'.repeat(7000) }))
  await plain('a')
  for (let n = 0; n < 40; n++) await plain('b')
  await until(async () => (await metric('slow_closes_total')) === 1)
  const closed = drowned.closed()
  for (const { webSocket } of [patient, drowned]) webSocket.resume()
  t.match(await closed, { code: 3008 })
  await patient.received(count() / 2 + 1)
  const all = payloadsOf(patient.messages)
  t.same(
    all.filter((n) => n > 0),
    upTo(count()).filter((n) => n % 2 === 0)
  )
  t.equal(all.filter((n) => n === 0).length, 1)
})

t.test('a slow client never misses anything unnoticed because of a forged position', async (t) => {
  const { ws, publish, dbUri, fastify, metric } = await server(t, { maxBufferedBytes: 4 * MIB })
  const slow = await open(t, `${ws}/a/${jwt}`)
  await publish(1, 10)
  const [first] = await slow.received(1)
  const { id } = JSON.parse(first!)
  slow.webSocket.pause()
  const waiting = async () => (await fastify.pgws.connections())[0]!.bufferedBytes
  while ((await waiting()) === 0) await publish(5)
  const forged = JSON.stringify({
    id: `${id.slice(0, 9)}00000fffffffffff`,
    channel: 'a',
    payload: `0${'f'.repeat(7500)}`
  })
  while ((await metric('slow_catch_ups_total')) === 0) {
    await query(
      dbUri,
      `select count(pg_notify($2, left($1, -2) || n || '"}')) from generate_series(1, 50) n`,
      [forged, LISTEN_CHANNEL]
    )
  }
  const closed = slow.closed()
  slow.webSocket.resume()
  t.match(await closed, { code: 3008 })
})
