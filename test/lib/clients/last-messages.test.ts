import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { answer, stream } from '../../support/event-stream.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import { build, open, query, refusal, token, until, withPostgres } from '../../support/helper.js'

const { postgres, migrated, database } = await withPostgres(t)
const jwt = token({ mode: 'r', channels: ['a', 'b', 'c'] })

async function server(t: Test, options: object = {}) {
  const dbUri = await migrated('a', 'b')
  const app = await build(t, { dbUri, ...options })
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  /** Publishes, and waits until the sequencer has stored the messages. */
  const published = async (text: string) => {
    await sql(text)
    await until(() => sql('select pgws.catch_up()').then(Boolean, () => false))
  }
  return { ...app, dbUri, sql, published }
}

type Read = () => { channel: string; payload: unknown; id: string | undefined }[]

/** The kinds of clients that can request the last messages, and what each has received. */
const CLIENTS: Record<string, (t: Test, app: { http: string; ws: string }, path: string) => Promise<Read>> = {
  async 'a raw websocket'(t, { ws }, path) {
    const { messages } = await open(t, ws + path)
    return () => messages.map((text) => JSON.parse(text))
  },
  async 'an event stream'(t, { http }, path) {
    const { events } = await stream(t, http + path)
    return () => events.map(({ data, id }) => ({ ...JSON.parse(data), id }))
  }
}

const payloadsOf = (read: Read) => read().map(({ payload }) => payload)
const numbers = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, i) => first + i)

for (const [name, connect] of Object.entries(CLIENTS)) {
  t.test(`${name} receives the last messages of each channel in order, then new ones`, async (t) => {
    const app = await server(t)
    const { published } = app
    await published(`select pgws.publish('b', to_jsonb(n)) from generate_series(1, 3) n`)
    await published(`select pgws.publish('a', to_jsonb(n)) from generate_series(1, 1200) n`)
    await published(`select pgws.publish('b', to_jsonb(n)) from generate_series(4, 5) n`)
    const read = await connect(t, app, `/${jwt}?last=4`)
    // The first messages of `b` are older than most of `a`, which are not read for them.
    await until(() => read().length === 8)
    // Not stored, so not among the last messages.
    await published(`select pgws.publish('c', '"live"')`)
    await published(`select pgws.publish('a', '1201')`)
    await until(() => read().length === 10)
    t.same(payloadsOf(read), [2, 3, 1197, 1198, 1199, 1200, 4, 5, 'live', 1201])
    const ids = read().flatMap(({ id }) => id ?? [])
    t.equal(ids.length, 9)
    t.same(ids, [...ids].sort())
    const one = await connect(t, app, `/b/${jwt}?last=1000`)
    await until(() => one().length === 5)
    t.same(payloadsOf(one), numbers(1, 5))
    // More than one read returns.
    const many = await connect(t, app, `/a/${jwt}?last=1000`)
    await until(() => many().length >= 1000)
    t.same(payloadsOf(many), numbers(202, 1201))
  })

  t.test(`${name} that joins during publishing misses nothing after its first message`, async (t) => {
    const dbUri = await migrated('a', 'b')
    // The notification arrives later than the row can be read.
    const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
    proxy.delay = 50
    const app = await build(t, { dbUri, listenerUri: proxy.uri(dbUri) })
    const sent = { a: 0, b: 0 }
    let ended = false
    const publishing = (['a', 'b'] as const).map(async (channel) => {
      while (!ended)
        await query(dbUri, 'select pgws.publish($1, to_jsonb($2::int))', [channel, ++sent[channel]])
    })
    const stored = async () => {
      const text = `select count(*) > 20 as enough from pgws.messages where position > 0 and channel = any ('{a,b}') group by channel`
      const { rows } = await query(dbUri, text)
      return rows.length === 2 && rows.every(({ enough }) => enough)
    }
    await until(stored)
    const readers: { before: typeof sent; read: Read }[] = []
    for (let i = 0; i < 20; i++) {
      const { rows } = await query(
        dbUri,
        `select max(payload) filter (where channel = 'a') as a, max(payload) filter (where channel = 'b') as b
         from (select channel, (body::json ->> 'payload')::int as payload from pgws.messages where position > 0) m`
      )
      const [before] = rows
      readers.push({ before, read: await connect(t, app, `/${jwt}?last=5`) })
      await sleep(Math.random() * 20)
    }
    ended = true
    await Promise.all(publishing)
    for (const { before, read } of readers) {
      for (const channel of ['a', 'b'] as const) {
        const got = () =>
          read()
            .filter((message) => message.channel === channel)
            .map(({ payload }) => payload as number)
        await until(() => got().at(-1) === sent[channel])
        const [first] = got() as [number]
        t.same(got(), numbers(first, sent[channel]))
        t.ok(first >= before[channel] - 4, `${first} is one of the last five of ${before[channel]} or later`)
        t.ok(got().length >= 5)
      }
      const ids = read().map(({ id }) => id!)
      t.same(ids, [...ids].sort())
    }
  })

  t.test(`${name} receives at most maxHistoryBytes of last messages, the newest ones`, async (t) => {
    const app = await server(t, { maxHistoryBytes: 5000 })
    const { published } = app
    await published(`select pgws.publish('b', '"old"')`)
    await published(
      `select pgws.publish('a', to_jsonb(n || repeat('x', 1000))) from generate_series(1, 10) n`
    )
    const read = await connect(t, app, `/${jwt}?last=100`)
    await until(() => read().length === 4)
    await published(`select pgws.publish('a', to_jsonb(repeat('y', 9000)))`)
    await until(() => read().length === 5)
    const starts = payloadsOf(read).map((payload) => /^\d*./.exec(payload as string)![0])
    t.same(starts, ['7x', '8x', '9x', '10x', 'y'])
    // A larger message is sent alone.
    const alone = await connect(t, app, `/${jwt}?last=100`)
    await until(() => alone().length === 1)
    await published(`select pgws.publish('b', '"live"')`)
    await until(() => alone().length === 2)
    t.equal((alone()[0]!.payload as string).length, 9000)
    t.equal(alone()[1]!.payload, 'live')
  })
}

t.test('a channel without messages or without retention has no last messages', async (t) => {
  const app = await server(t)
  const { sql, published, ws } = app
  await published(`select pgws.publish('a', '1')`)
  await sql(`update pgws.messages set expires_at = '-infinity'`)
  const socket = await open(t, `${ws}/${jwt}?last=10`)
  await published(`select pgws.publish('b', '2')`)
  await published(`select pgws.publish('c', '3')`)
  const messages = await socket.received(2)
  t.same(
    messages.map((text) => JSON.parse(text).payload),
    [2, 3]
  )
})

t.test('clients that do not read do not keep the requested messages in memory', async (t) => {
  const { published, ws, fastify } = await server(t)
  await published(
    `select pgws.publish('a', to_jsonb(repeat(md5(n::text), 7000))) from generate_series(1, 35) n`
  )
  const sockets = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const socket = await open(t, `${ws}/a/${jwt}?last=1000`)
      socket.webSocket.pause()
      return socket
    })
  )
  // A page for each, and the next one only when that has been sent.
  const waiting = async () => (await fastify.pgws.connections()).map(({ bufferedBytes }) => bufferedBytes)
  await until(async () => (await waiting()).every((bytes) => bytes > 0))
  for (const bytes of await waiting()) t.ok(bytes < 2 * 1024 * 1024, `${bytes} bytes wait`)
  for (const socket of sockets) socket.webSocket.resume()
  for (const socket of sockets) {
    await until(() => socket.messages.length === 35)
  }
})

t.test('an event stream that reconnects continues from its last event', async (t) => {
  const { published, http } = await server(t)
  await published(`select pgws.publish('a', to_jsonb(n)) from generate_series(1, 10) n`)
  const first = await stream(t, `${http}/a/${jwt}?last=3`)
  const events = await first.received(3)
  const again = await stream(t, `${http}/a/${jwt}?last=1`, { 'last-event-id': events[0]!.id! })
  const payloads = (await again.received(2)).map(({ data }) => JSON.parse(data).payload)
  t.same(payloads, [9, 10])
})

t.test('rejects an invalid number of messages, and "last" together with "since"', async (t) => {
  const { http, ws } = await server(t)
  for (const [search, message] of [
    ...['', '0', '-1', '1001', '1.5', 'all', 'earliest'].map((last) => [
      `?last=${last}`,
      '"last" must be a whole number from 1 to 1000'
    ]),
    ['?last=5&since=earliest', '"since" and "last" do not go together'],
    ['?since=&last=5', '"since" and "last" do not go together']
  ] as [string, string][]) {
    const { status, answer: text } = await refusal(t, `${ws}/a/${jwt}${search}`)
    t.equal(status, 400, search)
    t.ok(text.includes(message), text)
    const response = await answer(`${http}/a/${jwt}${search}`)
    t.equal(response.statusCode, 400, search)
    response.destroy()
  }
})

t.test('without the schema, "last" is rejected as "since" is', async (t) => {
  const { ws } = await build(t, { dbUri: await database() })
  const { status, body } = await refusal(t, `${ws}/a/${jwt}?last=5`)
  t.match({ status, ...JSON.parse(body) }, { status: 501, code: 'FST_PGWS_NOT_INSTALLED' })
})
