import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { query, token, until } from '../support/helper.js'
import { connected, LANGUAGES, payloads, Room, roomToken, send, shown, stateOf } from '../support/room.js'

const MAX_MESSAGE = 2000
const room = await Room.start(t, { PGWS_MAX_MESSAGE_BYTES: String(MAX_MESSAGE) })
const people = (page: Page) => page.locator('#people li').allInnerTexts()
const linksOf = (page: Page) => page.locator('nav a').allInnerTexts()

/** A page at the printed address. */
async function printed(t: Test): Promise<Page> {
  const page = await room.page(t)
  await page.goto(room.address)
  await connected(page)
  return page
}

async function setName(page: Page, name: string): Promise<void> {
  await page.fill('#name', name)
  await page.press('#name', 'Enter')
  await page.locator('#my-name', { hasText: name }).waitFor()
  await connected(page)
}

t.test('links lead to the other pages, with the tokens that they need', async (t) => {
  const page = await printed(t)
  await until(async () => (await linksOf(page)).length === 4)
  t.same(await linksOf(page), ['Room', 'Live table', 'Dashboard', 'API documentation'])
  await page.click('nav a:text("Live table")')
  await page.locator('#rows').waitFor({ state: 'attached' })
  await connected(page)
  t.equal(await page.locator('nav [aria-current]').innerText(), 'Live table')
  await page.click('nav a:text("Room")')
  await page.locator('#messages').waitFor({ state: 'attached' })
  await connected(page)
  t.equal(await page.inputValue('#meta'), 'server-info')
  await page.click('nav a:text("Dashboard")')
  await page.locator('#state.connected').waitFor()
  await page.goBack()
  await page.click('nav a:text("API documentation")')
  await page.locator('.opblock').first().waitFor()
})

t.test('the printed address asks for a name, which others see', async (t) => {
  const other = await room.window(t, { token: roomToken({ mode: 'rw', sub: 'Bob' }) })
  const page = await printed(t)
  t.equal(await page.locator('#message').isVisible(), false)
  await setName(page, 'Ann Smith')
  t.equal(await page.locator('#name').isVisible(), false)
  await send(page, 'Hello from Ann Smith')
  await shown(other, 'Hello from Ann Smith')
  t.equal(await other.locator('#messages li').last().locator('.about').innerText(), 'Ann Smith')
  await until(async () => (await people(other)).some((text) => text === 'Ann Smith'))
  await page.reload()
  await connected(page)
  t.equal(await page.locator('#my-name').innerText(), 'Ann Smith')
  await page.click('#rename')
  await setName(page, 'Annie')
  await until(async () => (await people(other)).some((text) => text === 'Annie'))
  // Only an administrator can choose a name.
  t.equal(await other.locator('#rename').isVisible(), false)
  const unnamed = await room.window(t, { token: roomToken({ mode: 'rw' }) })
  t.equal(await unnamed.locator('#name').isVisible(), false)
  t.equal(await unnamed.locator('#message').isEnabled(), true)
})

t.test('a message keeps its time after a reload, in all transports', async (t) => {
  const writer = await room.window(t, { channel: 'kept:times' })
  await send(writer, 'from a browser')
  await shown(writer, 'from a browser')
  await query(room.dbUri, `select pgws.publish_text('kept:times', 'from SQL')`)
  await shown(writer, 'from SQL')
  const { rows } = await query(
    room.dbUri,
    `select extract(epoch from created_at) * 1000 as ms from pgws.messages where channel = 'kept:times' order by position`
  )
  const stored = rows.map(({ ms }) => Math.floor(Number(ms)))
  const opened = Date.now()
  for (const language of LANGUAGES) {
    const page = await room.window(t, { channel: 'kept:times', language })
    await shown(page, 'from SQL')
    const times = async () =>
      (await page.locator('#messages time').all()).map(async (time) =>
        Date.parse((await time.getAttribute('datetime'))!)
      )
    const read = async () => Promise.all(await times())
    // An envelope contains the time at which the server received it. An SDK does not get it, so the page asks.
    await until(async () => (await read()).every((time) => time < opened))
    if (language === 'sdk') t.same(await read(), stored)
    else for (const [i, time] of (await read()).entries()) t.ok(time <= stored[i]!)
  }
})

t.test('says that a token is refused in the same words in all transports', async (t) => {
  const claims = { mode: 'rw', sub: 'Ann' }
  for (const [bad, words] of [
    ['nonsense', /^refused: .*not a JSON Web Token/],
    [token(claims, 'another secret that is long enough'), /^refused: .*sign/],
    [roomToken({ ...claims, channels: ['elsewhere'] }), /^refused: No allowed channels/],
    [roomToken({ ...claims, exp: 1 }), /^closed: the token has expired/]
  ] as const) {
    const said: string[] = []
    for (const language of LANGUAGES) {
      const page = await room.page(t)
      await page.goto(room.url({ language, token: bad }))
      await page.locator('#state.closed').waitFor()
      said.push(await stateOf(page))
    }
    t.match(said[0], words)
    t.equal(new Set(said).size, 1, said.join(' | '))
  }
})

t.test('a message above the limit is not sent, and the room stays open', async (t) => {
  const ids = async (channel: string) => {
    const all = (await room.ask(`/connections?channel=${encodeURIComponent(channel)}`)) as { id: string }[]
    return all.map(({ id }) => id).sort()
  }
  const pages: Page[] = []
  for (const language of LANGUAGES) pages.push(await room.window(t, { channel: 'kept:large', language }))
  const before = await ids('kept:large')
  const large = 'x'.repeat(MAX_MESSAGE + 1)
  for (const page of pages) {
    await send(page, large)
    await page.locator('#message-hint', { hasText: 'Not sent' }).waitFor()
    t.match(await page.locator('#message-hint').innerText(), /bytes.*2,000 at most/)
    t.equal(await page.inputValue('#message'), large)
    await send(page, 'a smaller one')
    await until(async () => (await page.locator('#message-hint').innerText()) === '')
  }
  for (const page of pages) {
    await until(async () => (await payloads(page)).length === 3)
    t.same(await payloads(page), Array(3).fill('a smaller one'))
  }
  t.same(await ids('kept:large'), before)
})

t.test('says that an operator disconnected the client, who can join again', async (t) => {
  for (const [query, words] of [
    ['', 'closed: disconnected by an operator'],
    ['&reason=for+lunch', 'closed: disconnected by an operator, who says: for lunch']
  ]) {
    const pages: Page[] = []
    for (const language of LANGUAGES) {
      const mallory = roomToken({ mode: 'rw', sub: 'Mallory' })
      pages.push(await room.window(t, { channel: 'kept:out', language, token: mallory }))
    }
    t.match(await room.ask(`/connections?subject=Mallory${query}`, 'DELETE'), {
      // Each client also has a connection for the meta channel.
      closed: 6
    })
    for (const page of pages) {
      await page.locator('#state.closed').waitFor()
      t.equal(await stateOf(page), words)
      await page.click('#join')
      await connected(page)
      await page.close()
    }
  }
})

t.test('marks the member of this window in the list, in all transports', async (t) => {
  const pages: Page[] = []
  for (const language of LANGUAGES) {
    const named = roomToken({ mode: 'rw', sub: `by ${language}` })
    pages.push(await room.window(t, { language, token: named }))
  }
  for (const [i, page] of pages.entries()) {
    await until(async () => (await people(page)).filter((text) => text.startsWith('by ')).length === 3)
    const marked = (await people(page)).filter((text) => text.includes('(this window)'))
    t.equal(marked.length, 1)
    t.match(marked[0], `by ${LANGUAGES[i]}`)
  }
})

t.test('after sending, the message is visible', async (t) => {
  await query(
    room.dbUri,
    `select pgws.publish_text('kept:view', 'message ' || n) from generate_series(1, 50) n`
  )
  for (const language of LANGUAGES) {
    const page = await room.window(t, { channel: 'kept:view', language })
    await shown(page, 'message 50')
    await page
      .locator('.log')
      .first()
      .evaluate((list) => list.scrollTo(0, 0))
    await send(page, `mine, by ${language}`)
    await shown(page, `mine, by ${language}`)
    const inView = () =>
      page
        .locator('#messages li')
        .last()
        .evaluate((item) => {
          const list = item.closest('.log')!.getBoundingClientRect()
          const { top, bottom } = item.getBoundingClientRect()
          return top >= list.top && bottom <= list.bottom + 1
        })
    await until(inView)
    t.equal(await page.locator('#messages li').last().locator('.payload').innerText(), `mine, by ${language}`)
  }
})

t.test('has no links to pages that do not exist', async (t) => {
  const bare = await Room.start(t, { PGWS_DASHBOARD: 'false', PGWS_DOCUMENTATION: 'false' })
  const page = await bare.page(t)
  const asked: string[] = []
  page.on('response', (response) => asked.push(new URL(response.url()).pathname))
  await page.goto(bare.url())
  await connected(page)
  await until(() => asked.includes('/documentation/json'))
  // The answer has arrived, and the page has had time to read it.
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve)))
  t.same(await linksOf(page), ['Room', 'Live table'])
  // The page asks for a name only if the server accepts one.
  t.same(bare.errors, [])
})

t.test('the table page says what is missing', async (t) => {
  const page = await room.page(t)
  for (const [fragment, words] of [
    ['', /^The token is missing/],
    ['#token=nonsense', /^refused: .*not a JSON Web Token/],
    [`#token=${roomToken({ mode: 'rw', channels: ['chat'] })}`, /^refused: No allowed channels/],
    [`#token=${roomToken({ mode: 'rw', exp: 1 })}`, /token has expired|Token expired/]
  ] as const) {
    await page.goto(new URL(`/table.html${fragment}`, room.address).href)
    await page.locator('#state.closed').waitFor()
    await until(async () => words.test(await stateOf(page)))
    t.match(await stateOf(page), words)
  }
})

t.test('there was no script error', async (t) => {
  t.same(room.errors, [])
})
