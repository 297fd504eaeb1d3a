import pg from 'pg'
import t, { type Test } from 'tap'
import { ChannelReads } from '../../../lib/durable/reads/channel-reads.js'
import { Turns } from '../../../lib/durable/reads/turns.js'
import { StoredMessages } from '../../../lib/durable/stored-message.js'
import type { Message } from '../../../lib/messages/index.js'
import { outcomeOf } from '../../../lib/postgres/outcome.js'
import type { Query } from '../../../lib/postgres/query.js'
import { install, query, withPostgres } from '../../support/helper.js'
import { createDatabase } from '../../support/postgres.js'

const { postgres, migrated } = await withPostgres(t)

/** Reads from a database, and collects the statements and the messages that they return. */
async function reading(t: Test, dbUri: string) {
  const pool = new pg.Pool({ connectionString: dbUri, max: 5 })
  t.teardown(() => pool.end())
  const statements: { rows: { body: string | null }[] }[] = []
  const run = async (text: string, values?: unknown[]) => {
    const result = await pool.query(text, values).catch((error) => {
      throw outcomeOf(error)
    })
    statements.push(result)
    return result
  }
  const messages = new StoredMessages({ epoch: 'epoch' }, (reason, fields) => t.fail(reason, fields))
  const reads = new ChannelReads(run as Query, messages, new Turns(1), 1024 * 1024)
  const rows = () => statements.flatMap(({ rows }) => rows).filter(({ body }) => body !== null)
  return { reads, statements, rows }
}

/** Publishes, in the order of the statement. */
async function publish(dbUri: string, text: string): Promise<void> {
  await query(dbUri, text)
  while ((await query(dbUri, 'select pgws.catch_up() as n')).rows[0].n > 0) {}
}

/** All messages of channels, as a client reads them. */
async function readAll(reads: ChannelReads, channels: string[]): Promise<string[]> {
  const { page: first } = await reads.resume(channels, 0)
  const texts: string[] = []
  let after = 0
  for (let page = first; ; page = await reads.read(channels, after)) {
    for (const { message, position } of page?.messages ?? []) {
      texts.push(JSON.parse(message.text).payload)
      after = position
    }
    if (page !== undefined && !page.more) return texts
  }
}

const numbers = (count: number) => Array.from({ length: count }, (_, i) => String(i + 1))

t.test(
  'clients of different channels share a statement, and one that missed many messages does not delay the others',
  async (t) => {
    const dbUri = await migrated('**')
    await publish(dbUri, `select pgws.publish_text('much', n::text) from generate_series(1, 3000) n`)
    await publish(
      dbUri,
      `select pgws.publish_text('little:' || i, n::text) from generate_series(1, 300) i, generate_series(1, 3) n order by i, n`
    )
    const { reads, statements } = await reading(t, dbUri)
    const ended: string[] = []
    const much = readAll(reads, ['much']).finally(() => ended.push('much'))
    const little = Array.from({ length: 300 }, (_, i) =>
      readAll(reads, [`little:${i + 1}`]).finally(() => ended.push('little'))
    )
    for (const texts of await Promise.all(little)) t.same(texts, numbers(3))
    t.equal(statements.length, 1)
    t.notOk(ended.includes('much'))
    t.same(await much, numbers(3000))
  }
)

t.test(
  'messages that do not fit into a statement are read by the next ones, the first messages of each channel first',
  async (t) => {
    const dbUri = await migrated('**')
    const size = 400_000
    await publish(
      dbUri,
      `select pgws.publish_text('large:' || i, n || repeat('x', ${size})) from generate_series(1, 5) i, generate_series(1, 4) n order by i, n`
    )
    await publish(dbUri, `select pgws.publish_text('huge', repeat('x', 3000000))`)
    const { reads, statements, rows } = await reading(t, dbUri)
    const channels = ['huge', ...[1, 2, 3, 4, 5].map((i) => `large:${i}`)]
    const first = await Promise.all(channels.map((channel) => reads.resume([channel], 0)))
    // A message that is larger than the limit of a statement is read alone.
    t.same(
      first.map(({ page }) => page && { messages: page.messages.length, more: page.more }),
      [{ messages: 1, more: false }, ...Array(5).fill(undefined)]
    )
    for (const texts of await Promise.all(channels.slice(1).map((channel) => readAll(reads, [channel])))) {
      t.same(
        texts.map((text) => [text[0], text.length]),
        [1, 2, 3, 4].map((n) => [String(n), size + 1])
      )
    }
    t.equal(rows().length, 21)
    for (const { rows } of statements.slice(1)) {
      const bytes = rows.reduce((sum, { body }) => sum + (body?.length ?? 0), 0)
      t.ok(bytes <= 1024 * 1024, `${bytes} bytes in a statement`)
    }
  }
)

t.test('readers of the same page share its bytes', async (t) => {
  const dbUri = await migrated('**')
  await publish(dbUri, `select pgws.publish_text('news', n::text) from generate_series(1, 3) n`)
  const { reads } = await reading(t, dbUri)
  const format = {
    encode: ({ text, position }: Message) => ({ bytes: Buffer.from(JSON.parse(text).payload), position })
  }
  const [{ page: all }] = await Promise.all([reads.resume(['news'], 0), reads.resume(['news'], 0)])
  const [first, second] = all!.messages
  const [one, other, later] = await Promise.all(
    [first, first, second].map((message) => reads.resume(['news'], message!.position))
  )
  t.equal(String(one!.page!.encode(format).joined), '23')
  t.equal(other!.page!.encode(format).joined, one!.page!.encode(format).joined)
  t.equal(String(later!.page!.encode(format).joined), '3')
})

t.test('a message of a channel with many readers is read once', async (t) => {
  const dbUri = await migrated('**')
  await publish(dbUri, `select pgws.publish_text('news', repeat('x', 10000))`)
  await publish(dbUri, `select pgws.publish_text('own:' || i, i::text) from generate_series(1, 200) i`)
  const { reads, rows } = await reading(t, dbUri)
  const all = await Promise.all(
    Array.from({ length: 200 }, (_, i) => readAll(reads, [`own:${i + 1}`, 'news']))
  )
  for (const [i, texts] of all.entries()) t.same(texts, ['x'.repeat(10_000), String(i + 1)])
  t.equal(rows().length, 201)
})

t.test('a channel whose name the database cannot store fails without affecting others', async (t) => {
  const dbUri = await createDatabase(postgres, 'LATIN1')
  await install(dbUri, '**')
  await publish(dbUri, `select pgws.publish_text('a:' || i, i::text) from generate_series(1, 30) i`)
  const { reads } = await reading(t, dbUri)
  const bad = [t.rejects(reads.resume(['€'], 0)), t.rejects(reads.tail(['€'], 1))]
  const good = Array.from({ length: 30 }, (_, i) => readAll(reads, [`a:${i + 1}`]))
  const tails = Array.from({ length: 30 }, (_, i) => reads.tail([`a:${i + 1}`], 2))
  await Promise.all(bad)
  for (const [i, texts] of (await Promise.all(good)).entries()) t.same(texts, [String(i + 1)])
  for (const { starts, latest } of await Promise.all(tails)) t.ok(starts[0]! < latest)
})

t.test('reads the state of each channel for all requests that arrive at once', async (t) => {
  const dbUri = await migrated('**')
  await publish(dbUri, `select pgws.publish_text('a', n::text) from generate_series(1, 3) n`)
  await publish(dbUri, `select pgws.publish_text('b', n::text) from generate_series(1, 2) n`)
  await query(dbUri, `update pgws.messages set expires_at = '-infinity' where position <= 2`)
  await query(dbUri, 'select pgws.clean()')
  const { rows } = await query(dbUri, 'select channel, position::int from pgws.messages order by position')
  const { reads, statements } = await reading(t, dbUri)
  const [one, other, none] = await Promise.all([
    reads.state(['a']),
    reads.state(['b', 'a']),
    reads.state(['c'])
  ])
  t.equal(statements.length, 1)
  const [a, b, last] = rows.map(({ position }) => position)
  t.match(one, { latest: last, channels: [{ channel: 'a', trimmed: 2, oldest: a }] })
  t.same(other.channels, [
    { channel: 'b', trimmed: 0, oldest: b },
    { channel: 'a', trimmed: 2, oldest: a }
  ])
  t.same(none.channels, [{ channel: 'c', trimmed: 0, oldest: null }])
})
