import type { BrowserContext, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { query, until } from '../support/helper.js'
import { connected, payloads, Room, roomToken, send, shown, stateOf } from '../support/room.js'

const room = await Room.start(t)
const person = (sub: string) => roomToken({ mode: 'rw', admin: true, sub })

/** The users of the event streams in a channel. */
async function streams(channel: string): Promise<string[]> {
  const all = (await room.ask(`/connections?channel=${encodeURIComponent(channel)}`)) as {
    subject: string
    transport: string
  }[]
  return all.filter(({ transport }) => transport === 'event-stream').map(({ subject }) => subject)
}

/** Tabs of one browser with EventSource. */
async function tabs(t: Test, count: number, channel: string, context: BrowserContext): Promise<Page[]> {
  const pages: Page[] = []
  for (let i = 0; i < count; i++) pages.push(await room.window(t, { channel, language: 'sse', context }))
  return pages
}

async function contextOf(t: Test): Promise<BrowserContext> {
  const context = await room.browser.newContext()
  t.teardown(() => context.close())
  return context
}

/** Publishes numbers until it is stopped. */
function publishing(channel: string) {
  let sent = 0
  let ended = false
  const done = (async () => {
    while (!ended) await query(room.dbUri, `select pgws.publish_text($1, $2)`, [channel, String(++sent)])
  })()
  return {
    get sent() {
      return sent
    },
    async end() {
      ended = true
      await done
      return sent
    }
  }
}

/** Checks that a page shows each published number once and in order, up to the last one. */
async function expectAll(t: Test, page: Page, last?: number): Promise<void> {
  const numbers = (await payloads(page)).filter((text) => /^\d+$/.test(text)).map(Number)
  t.ok(numbers.length > 0)
  t.same(
    numbers,
    numbers.map((_, i) => (last === undefined ? numbers[0]! : last - numbers.length + 1) + i)
  )
}

t.test('more tabs than a browser has connections share one stream, and can send and receive', async (t) => {
  const pages = await tabs(t, 8, 'kept:eight', await contextOf(t))
  t.same(await streams('kept:eight'), ['Ann'])
  for (const [i, page] of pages.entries()) {
    await send(page, `from tab ${i}`)
    for (const each of pages) await shown(each, `from tab ${i}`)
  }
  const expected = pages.map((_, i) => `from tab ${i}`)
  for (const page of pages) t.same(await payloads(page), expected)
  // All tabs together are one member of the presence channel.
  const chat = await tabs(t, 2, 'chat', pages[0]!.context())
  for (const page of chat) {
    await until(async () => (await page.locator('#people li').count()) === 1)
    t.match(await page.locator('#people li').innerText(), /Ann\s+\(this window\)/)
  }
})

t.test(
  'a new tab shows the last messages, and closing the first tab loses and repeats no message',
  async (t) => {
    const context = await contextOf(t)
    await query(
      room.dbUri,
      `select pgws.publish_text('kept:close', 'before ' || n) from generate_series(1, 60) n`
    )
    const first = await room.window(t, { channel: 'kept:close', language: 'sse', context })
    await shown(first, 'before 60')
    const second = await room.window(t, { channel: 'kept:close', language: 'sse', context })
    await shown(second, 'before 60')
    const last50 = Array.from({ length: 50 }, (_, i) => `before ${i + 11}`)
    t.same(await payloads(second), last50)
    const publisher = publishing('kept:close')
    await until(() => publisher.sent > 5)
    const third = await room.window(t, { channel: 'kept:close', language: 'sse', context })
    await first.close()
    const already = publisher.sent
    for (const page of [second, third]) await shown(page, String(already))
    t.same(await streams('kept:close'), ['Ann'])
    await second.reload()
    await connected(second)
    await third.close()
    const sent = await publisher.end()
    await shown(second, String(sent))
    await expectAll(t, second, sent)
    await second.close()
    await until(async () => (await streams('kept:close')).length === 0, 60_000)
  }
)

t.test('after a restart of the server, the tabs share a stream again, with each message once', async (t) => {
  const pages = await tabs(t, 3, 'kept:again', await contextOf(t))
  await query(room.dbUri, `select pgws.publish_text('kept:again', 'before')`)
  for (const page of pages) await shown(page, 'before')
  await room.stop()
  for (const page of pages) await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  await room.serve()
  await query(
    room.dbUri,
    `select pgws.publish_text('kept:again', 'meanwhile ' || n) from generate_series(1, 3) n`
  )
  for (const page of pages) {
    await connected(page)
    await shown(page, 'meanwhile 3')
    t.match(await stateOf(page), /resumed/)
  }
  t.same(await streams('kept:again'), ['Ann'])
  await send(pages[2]!, 'after')
  const joined = await room.window(t, {
    channel: 'kept:again',
    language: 'sse',
    context: pages[0]!.context()
  })
  for (const page of [...pages, joined]) {
    await shown(page, 'after')
    t.same(await payloads(page), ['before', 'meanwhile 1', 'meanwhile 2', 'meanwhile 3', 'after'])
  }
})

t.test('different users have separate streams, and the page says when there are too many', async (t) => {
  const context = await contextOf(t)
  const people = ['Ann', 'Bob', 'Carol', 'Dora']
  for (const sub of people) {
    await room.window(t, { channel: 'kept:people', language: 'sse', token: person(sub), context })
  }
  t.same((await streams('kept:people')).sort(), people)
  const page = await room.page(t, context)
  await page.goto(room.url({ channel: 'kept:people', language: 'sse', token: person('Eve') }))
  await page.locator('#state.closed').waitFor()
  t.match(await stateOf(page), /4 event streams.*six connections.*SDK or a WebSocket/)
  await page.check('#language-websocket')
  await connected(page)
  await send(page, 'by websocket')
  await shown(page, 'by websocket')
})

t.test('an unsigned token with the same claims does not join a stream', async (t) => {
  const context = await contextOf(t)
  await room.window(t, { channel: 'chat', language: 'sse', context })
  const forged = person('Ann').replace(/[^.]+$/, 'AAAA')
  const page = await room.page(t, context)
  await page.goto(room.url({ channel: 'chat', language: 'sse', token: forged }))
  await page.locator('#state.closed').waitFor()
  t.match(await stateOf(page), /refused/)
  t.same(await payloads(page), [])
})

t.test('a browser without shared workers has a stream for each tab', async (t) => {
  const context = await contextOf(t)
  await context.addInitScript('delete globalThis.SharedWorker')
  const pages = await tabs(t, 2, 'kept:alone', context)
  t.same(await streams('kept:alone'), ['Ann', 'Ann'])
  await send(pages[0]!, 'hello')
  for (const page of pages) await shown(page, 'hello')
})

t.test('there was no script error', async (t) => {
  t.same(room.errors, [])
})
