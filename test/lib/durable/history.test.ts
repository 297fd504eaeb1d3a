import t, { type Test } from 'tap'
import { FaultProxy } from '../../support/fault-proxy.js'
import { build, query, token, until } from '../../support/helper.js'
import { migratedDatabase, sharedPostgres } from '../../support/postgres.js'
import { sdk } from '../../support/sdk.js'

const MIB = 1024 * 1024

const postgres = await sharedPostgres(t)
const reader = token({ mode: 'r' })

interface Answer {
  messages: { id: string; payload: unknown }[]
  gap?: boolean
  next?: string
}

/** A server behind a proxy that counts the bytes that it reads. */
async function durable(t: Test, options: object = {}) {
  const dbUri = await migratedDatabase(postgres)
  const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  // Before the server starts, which would learn of it a moment later.
  await sql(`select pgws.retain('a', '1 hour')`)
  const app = await build(t, { dbUri: proxy.uri(dbUri), ...options })
  const fetchPage = (search = '') =>
    fetch(`${app.http}/channels/a/history${search}`, { headers: { authorization: `Bearer ${reader}` } })
  const get = async (search = '') => {
    const response = await fetchPage(search)
    const text = await response.text()
    const { status } = response
    return { status, bytes: Buffer.byteLength(text), body: JSON.parse(text) as Answer }
  }
  return { ...app, proxy, sql, get }
}

/** Follows `next` until the last page. */
async function readAll(get: (search: string) => Promise<{ bytes: number; body: Answer }>, search: string) {
  const pages = [await get(search)]
  for (let next = pages[0]!.body.next; next !== undefined; next = pages.at(-1)!.body.next) {
    pages.push(await get(`${search}&since=${next}`))
  }
  return pages
}

t.test('returns a history of large messages in pages, and reads no more than it returns', async (t) => {
  const { proxy, sql, get } = await durable(t)
  // Random bytes, which cannot be compressed; 1 MB each.
  await sql(
    `select pgws.publish_text('a', n || ' ' || repeat(md5(n::text), 31250)) from generate_series(1, 100) n`
  )
  await until(() => sql('select pgws.catch_up()').then(Boolean, () => false))

  const requests = 6
  let before = 0
  let answers: Awaited<ReturnType<typeof get>>[] = []
  // On a busy machine the database can need more than 5 s for one of them.
  await until(async () => {
    before = proxy.bytesFromServer
    answers = await Promise.all(Array.from({ length: requests }, () => get('?limit=1000')))
    return answers.every(({ status }) => status !== 503)
  })
  for (const { status, bytes, body } of answers) {
    t.equal(status, 200)
    t.ok(bytes <= 8 * MIB + 1000, `an answer has ${bytes} bytes`)
    t.equal(body.messages.length, 8)
    t.equal(body.next, body.messages[7]!.id)
  }
  const read = proxy.bytesFromServer - before
  t.ok(read <= requests * (8 * MIB + 100_000), `${read} bytes were read for ${requests} answers`)

  const pages = await readAll(get, '?limit=1000')
  t.same(
    pages.flatMap(({ body }) => body.messages.map(({ payload }) => Number.parseInt(payload as string, 10))),
    Array.from({ length: 100 }, (_, i) => i + 1)
  )
  t.equal(pages.length, 13)
})

t.test('returns a message that is larger than the limit of an answer in an answer of its own', async (t) => {
  const { sql, get } = await durable(t, { maxHistoryBytes: 1000 })
  await sql(`select pgws.publish_text('a', repeat('x', n)) from unnest('{10,10,5000,10}'::int[]) n`)
  const pages = await readAll(get, '?limit=1000')
  t.same(
    pages.map(({ body }) => body.messages.map(({ payload }) => (payload as string).length)),
    [[10, 10], [5000], [10]]
  )
})

t.test('reads no more rows than requested, and returns "next" only if there are more', async (t) => {
  const { proxy, sql, get } = await durable(t)
  await sql(`select pgws.publish_text('a', n || repeat('x', 10000)) from generate_series(1, 200) n`)
  const before = proxy.bytesFromServer
  const { body } = await get('?limit=3')
  t.equal(body.messages.length, 3)
  t.ok(proxy.bytesFromServer - before < 100_000, `${proxy.bytesFromServer - before} bytes were read`)
  t.equal(body.next, body.messages[2]!.id)
  t.equal((await get('?limit=200')).body.next, undefined)
  t.equal((await get('?limit=201')).body.next, undefined)
  t.type((await get('?limit=199')).body.next, 'string')
})

t.test('leaves out expired messages, and reports a gap for deleted ones', async (t) => {
  const { sql, get } = await durable(t)
  await sql(`select pgws.publish('a', to_jsonb(n)) from generate_series(1, 10) n`)
  const first = (await get()).body.messages[0]!.id
  t.equal((await get(`?since=${first}`)).body.gap, undefined)
  await sql(
    `update pgws.messages set expires_at = clock_timestamp() - interval '1 second' where (body::json ->> 'payload')::int <= 5`
  )
  t.same(
    (await get()).body.messages.map(({ payload }) => payload),
    [6, 7, 8, 9, 10]
  )
  await sql('select pgws.clean()')
  t.same((await get(`?since=${first}`)).body, { ...(await get()).body, gap: true })
  t.equal((await get('?since=earliest')).body.gap, undefined)
})

t.test('answers 409 to an id of another epoch or of the future, and says what to do', async (t) => {
  const { sql, get, fastify } = await durable(t)
  await sql(`select pgws.publish('a', to_jsonb(n)) from generate_series(1, 3) n`)
  const { messages } = (await get()).body
  const last = messages[2]!.id
  const [epoch] = last.split('-') as [string, string]
  const future = await get(`?since=${epoch}-${'f'.padStart(16, '0')}`)
  t.match(future, { status: 409, body: { code: 'FST_PGWS_UNKNOWN_POSITION', message: /since=earliest/ } })
  await sql('select pgws.new_epoch()')
  await until(async () => (await get(`?since=${last}`)).status === 409)
  await t.rejects(fastify.pgws.history('a', last, 10), { code: 'FST_PGWS_UNKNOWN_POSITION' })
  t.equal((await get()).body.messages.length, 3)
})

t.test('returns the newest messages first on request, in pages down to the oldest', async (t) => {
  const { sql, get, fastify } = await durable(t, { maxHistoryBytes: 5000 })
  t.same((await get('?order=desc')).body, { messages: [] })
  await sql(`select pgws.publish('a', to_jsonb(n)) from generate_series(1, 10) n`)
  await sql(`select pgws.publish_text('a', repeat('x', 6000))`)
  const pages: unknown[][] = []
  let search: string | undefined = '?order=desc&limit=4'
  for (let before: string | undefined; search !== undefined; ) {
    const { messages, next, gap }: Answer = (await get(search)).body
    pages.push(messages.map(({ payload }) => (typeof payload === 'string' ? payload.length : payload)))
    t.equal(gap, undefined)
    before = next
    search = before && `?order=desc&limit=4&before=${before}`
    if (before !== undefined) t.equal(before, messages.at(-1)!.id)
  }
  // A message that is larger than the limit of an answer is returned alone.
  t.same(pages, [[6000], [10, 9, 8, 7], [6, 5, 4, 3], [2, 1]])
  // Messages that are newer than the page arrive live, from the first one on.
  const { messages } = (await get('?order=desc&limit=1')).body
  await sql(`select pgws.publish('a', '12')`)
  t.match((await get(`?since=${messages[0]!.id}`)).body, { messages: [{ payload: 12 }] })
  // A position works as an id, too: `before` it are the messages that its snapshot saw, except the last.
  const { rows } = await sql('select pgws.position() as id')
  await sql(`select pgws.publish('a', '13')`)
  const older = (await get(`?order=desc&before=${rows[0].id}&limit=1`)).body.messages
  t.equal((older[0]!.payload as string).length, 6000)
  t.match(await fastify.pgws.historyBefore('a', undefined, 1), {
    messages: [{ text: /"payload":13/ }],
    gap: false
  })
})

t.test('rejects parameters that contradict the order, and says what to use instead', async (t) => {
  const { sql, get, fastify } = await durable(t)
  await sql(`select pgws.publish('a', to_jsonb(n)) from generate_series(1, 3) n`)
  const last = (await get()).body.messages[2]!.id
  for (const [search, message] of [
    ['?order=newest', '"order" must be "asc" or "desc"'],
    ['?order=', '"order" must be "asc" or "desc"'],
    ['?order=desc&order=desc', '"order" must be "asc" or "desc"'],
    [`?before=${last}`, '"before" requires "order=desc"'],
    [`?order=asc&before=${last}`, '"before" requires "order=desc"'],
    [`?order=desc&since=${last}`, '"since" cannot be used with "order=desc": use "before"'],
    ['?order=desc&before=nonsense', '"before" must be the id of a message'],
    ['?order=desc&before=earliest', '"before" must be the id of a message'],
    ['?order=desc&limit=0', '"limit" must be'],
    ['?order=desc&limit=1001', '"limit" must be']
  ] as const) {
    const { status, body } = (await get(search)) as { status: number; body: unknown }
    t.equal(status, 400, search)
    t.ok((body as { message: string }).message.includes(message), (body as { message: string }).message)
  }
  const [epoch] = last.split('-') as [string]
  const future = await get(`?order=desc&before=${epoch}-${'f'.padStart(16, '0')}`)
  t.match(future, { status: 409, body: { code: 'FST_PGWS_UNKNOWN_POSITION' } })
  await sql('select pgws.new_epoch()')
  await until(async () => (await get(`?order=desc&before=${last}`)).status === 409)
  await t.rejects(fastify.pgws.historyBefore('a', last, 10), { code: 'FST_PGWS_UNKNOWN_POSITION' })
})

t.test('history of the SDK has the same limit, and continues from an offset', async (t) => {
  const { ws, sql, proxy } = await durable(t, { maxHistoryBytes: MIB })
  await sql(
    `select pgws.publish_text('a', n || ' ' || repeat(md5(n::text), 3125)) from generate_series(1, 40) n`
  )
  const client = sdk(t, ws, { token: reader })
  client.connect()
  await client.ready(5000)
  const before = proxy.bytesFromServer
  const got: number[] = []
  let since: { offset: number; epoch: string } | undefined
  let pages = 0
  for (;;) {
    const { publications, epoch } = await client.history('a', { limit: -1, ...(since && { since }) })
    if (publications.length === 0) break
    pages++
    const bytes = publications.reduce((sum, { data }) => sum + (data as string).length, 0)
    t.ok(bytes <= MIB, `a page has ${bytes} bytes`)
    got.push(...publications.map(({ data }) => Number.parseInt(data as string, 10)))
    since = { offset: publications.at(-1)!.offset!, epoch }
  }
  t.same(
    got,
    Array.from({ length: 40 }, (_, i) => i + 1)
  )
  t.equal(pages, 4)
  t.ok(proxy.bytesFromServer - before < 4 * MIB + 200_000)
  // Several requests at once are answered one after another; the client is not closed as a slow client.
  const many = await Promise.all(Array.from({ length: 12 }, () => client.history('a', { limit: -1 })))
  t.ok(many.every(({ publications }) => publications.length === 10))
})

t.test('returns the time of each message with times=true', async (t) => {
  const { sql, get, http } = await durable(t)
  for (const text of ['one', 'two', 'three']) await sql(`select pgws.publish_text('a', $1)`, [text])
  t.notHas((await get()).body, { times: Array })
  const { rows } = await sql(
    `select message::json ->> 'payload' as payload, extract(epoch from created_at) * 1000 as ms from pgws.history('a')`
  )
  for (const search of ['?times=true', '?times=true&order=desc&limit=2']) {
    const { messages, times } = (await get(search)).body as Answer & { times: string[] }
    t.equal(times.length, messages.length)
    for (const [i, { payload }] of messages.entries()) {
      const published = rows.find((row) => row.payload === payload)!
      t.equal(Date.parse(times[i]!), Math.floor(Number(published.ms)), search)
    }
  }
  t.equal((await get('?times=yes')).status, 400)
  const health = await (await fetch(`${http}/health`)).json()
  t.match(health, { maxMessageBytes: MIB })
})
