import type { Page } from 'playwright-core'
import t from 'tap'
import { FaultProxy } from '../support/fault-proxy.js'
import { query, until } from '../support/helper.js'
import { connected, LANGUAGES, payloads, Room, roomToken, send, shown } from '../support/room.js'

const room = await Room.start(t)

/** Runs the SQL that the page shows, as if a person pasted it. */
async function runShownSql(page: Page): Promise<void> {
  await room.sql(await page.locator('#sql').innerText())
}

for (const language of LANGUAGES) {
  t.test(`two windows and SQL send to one channel, by ${language}`, async (t) => {
    const [one, two] = [await room.window(t, { language }), await room.window(t, { language })]
    await send(one, 'Hello from a browser')
    await shown(one, 'Hello from a browser')
    await shown(two, 'Hello from a browser')
    await runShownSql(one)
    await shown(one, 'Hello from SQL')
    await shown(two, 'Hello from SQL')
    const item = two.locator('#messages li').last()
    await item.locator('summary').click()
    const came = { channel: 'chat', [language === 'sdk' ? 'data' : 'payload']: 'Hello from SQL' }
    t.match(JSON.parse(await item.locator('pre').innerText()), came)
    const meta = one.locator('#meta-messages .payload')
    await meta
      .getByText(language === 'sdk' ? 'connected' : 'joined chat')
      .first()
      .waitFor()
  })

  t.test(`shows the members, as others connect and leave, by ${language}`, async (t) => {
    const people = (page: Page) => page.locator('#people li span:first-child').allTextContents()
    const alice = roomToken({ mode: 'rw', sub: 'alice' })
    const one = await room.window(t, { language, token: alice })
    await until(async () => (await people(one)).length === 1)
    t.same(await people(one), ['alice'])
    const two = await room.window(t, { language, token: roomToken({ mode: 'r', sub: 'bob' }) })
    for (const page of [one, two]) {
      await until(async () => (await people(page)).length === 2)
      t.same((await people(page)).sort(), ['alice', 'bob'])
    }
    t.equal(await one.locator('#people-count').textContent(), '2')
    await two.close()
    await until(async () => (await people(one)).length === 1)
    t.same(await people(one), ['alice'])
  })
}

t.test('says so in a channel that does not track presence', async (t) => {
  for (const language of LANGUAGES) {
    const page = await room.window(t, { channel: 'elsewhere', language })
    await page.locator('#people[data-empty*="does not track presence"]').waitFor({ state: 'attached' })
    await send(page, language)
    await shown(page, language)
  }
})

t.test('any channel name works, and messages are shown as text', async (t) => {
  for (const channel of ['o\'clock "ü" /%?#', 'health', 'token']) {
    const page = await room.window(t, { channel })
    await page.fill('#message', '<img src=x onerror="document.title=1">')
    await page.click('#send')
    await shown(page, '<img src=x onerror="document.title=1">')
    await runShownSql(page)
    await shown(page, 'Hello from SQL')
    t.equal(await page.title(), 'fastify-pg-websockets')
  }
})

t.test('without a channel, joins all that the token names', async (t) => {
  const both = roomToken({ mode: 'rw', channels: ['one', 'other'] })
  for (const language of LANGUAGES) {
    const page = await room.window(t, { channel: '', language, token: both })
    const hint = await page.locator('#language-hint').textContent()
    t.equal(/A raw websocket is used/.test(hint!), language === 'sdk')
    await send(page, language)
    await until(async () => (await payloads(page)).length === 2)
    t.same(await payloads(page), [language, language])
  }
})

t.test('says that a token is refused', async (t) => {
  for (const language of LANGUAGES) {
    const page = await room.window(t, { language })
    await page.fill('#token', 'nonsense')
    await page.click('#join')
    await page.locator('#state.closed').waitFor()
    t.match(await page.locator('#state').textContent(), /refused/)
    t.equal(await page.locator('#send').isDisabled(), true)
  }
})

t.test('says that a token has expired', async (t) => {
  const ended = roomToken({ mode: 'rw', exp: Math.floor(Date.now() / 1000) - 60 })
  for (const language of LANGUAGES) {
    const page = await room.window(t, { language })
    await page.fill('#token', ended)
    await page.click('#join')
    await page.locator('#state.closed').waitFor()
    t.match(await page.locator('#state').textContent(), /the token has expired/)
  }
})

t.test('a token that allows only writing sends, and reads nothing', async (t) => {
  const reader = await room.window(t)
  for (const language of ['sdk', 'websocket'] as const) {
    const page = await room.window(t, { language, token: roomToken({ mode: 'w' }) })
    await send(page, `written by ${language}`)
    await shown(reader, `written by ${language}`)
    t.same(await payloads(page), [])
  }
})

t.test('a channel shows its last messages, and then new ones', async (t) => {
  await query(
    room.dbUri,
    `select pgws.publish_text('kept:last', 'message ' || n) from generate_series(1, 60) n`
  )
  const pages: Page[] = []
  for (const language of LANGUAGES) pages.push(await room.window(t, { channel: 'kept:last', language }))
  const expected = Array.from({ length: 50 }, (_, i) => `message ${i + 11}`)
  for (const [index, page] of pages.entries()) {
    await shown(page, 'message 60')
    t.same(await payloads(page), expected, LANGUAGES[index]!)
    t.match(await page.locator('#state').textContent(), /^connected to kept:last$/)
  }
  await send(pages[0]!, 'message 61')
  for (const page of pages) {
    await shown(page, 'message 61')
    t.same(await payloads(page), [...expected, 'message 61'])
  }
  // Joining again starts again.
  for (const page of pages) {
    await page.click('#join')
    await shown(page, 'message 61')
    t.same(await payloads(page), [...expected.slice(1), 'message 61'])
  }
})

t.test('a window that opens while others publish shows each message once', async (t) => {
  let sent = 0
  let ended = false
  const publishing = (async () => {
    while (!ended) await query(room.dbUri, `select pgws.publish_text('kept:busy', $1)`, [String(++sent)])
  })()
  for (const language of [...LANGUAGES, ...LANGUAGES]) {
    const page = await room.window(t, { channel: 'kept:busy', language })
    await shown(page, String(sent))
    const numbers = (await payloads(page)).map(Number)
    t.same(
      numbers,
      numbers.map((_, i) => numbers[0]! + i),
      language
    )
    await page.close()
  }
  ended = true
  await publishing
})

t.test('after a change of the protocol, the room shows each message once', async (t) => {
  const page = await room.window(t, { channel: 'kept:switch' })
  let sent = 0
  let ended = false
  const publishing = (async () => {
    while (!ended)
      await query(room.dbUri, `select pgws.publish_text('kept:switch', $1)`, [`message ${++sent}`])
  })()
  await page.focus('#language-sdk')
  await page.keyboard.press('ArrowRight')
  t.equal(await page.locator('#language-websocket').isChecked(), true)
  for (const language of ['sse', 'sdk', 'websocket', 'sdk', 'sse', 'websocket', 'sse', 'sdk'] as const) {
    await connected(page)
    const already = sent
    await shown(page, `message ${already}`)
    await page.check(`#language-${language}`)
  }
  ended = true
  await publishing
  await shown(page, `message ${sent}`)
  // The number of messages that the page shows.
  const all = Array.from({ length: sent }, (_, i) => `message ${i + 1}`)
  t.same(await payloads(page), all.slice(-500))
})

t.test('after a restart, it resumes: messages that were sent meanwhile arrive once, in order', async (t) => {
  const proxy = await FaultProxy.start(t, room.port)
  const pages: Page[] = []
  for (const language of LANGUAGES)
    pages.push(await room.window(t, { channel: 'kept:restart', language, port: proxy.port }))
  // Only one client has seen a message of this channel yet.
  await query(room.dbUri, `select pgws.publish_text('kept:restart', 'before')`)
  for (const page of pages) await shown(page, 'before')
  proxy.mode = 'refuse'
  await room.stop()
  for (const page of pages) await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  await room.serve()
  await query(
    room.dbUri,
    `select pgws.publish_text('kept:restart', 'meanwhile ' || n) from generate_series(1, 3) n`
  )
  proxy.mode = 'pass'
  for (const page of pages) {
    await connected(page)
    await shown(page, 'meanwhile 3')
    t.match(await page.locator('#state').textContent(), /resumed/)
  }
  const expected = ['before', 'meanwhile 1', 'meanwhile 2', 'meanwhile 3']
  for (const [index, page] of pages.entries()) {
    const text = `after the restart, by ${LANGUAGES[index]}`
    await send(page, text)
    expected.push(text)
    for (const other of pages) await shown(other, text)
  }
  for (const page of pages) t.same(await payloads(page), expected)
})

t.test('says that messages are missing if they cannot be replayed', async (t) => {
  const proxy = await FaultProxy.start(t, room.port)
  const pages: Page[] = []
  for (const language of LANGUAGES)
    pages.push(await room.window(t, { channel: 'kept:gap', language, port: proxy.port }))
  proxy.mode = 'refuse'
  proxy.cut()
  for (const page of pages) await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  // As after a restore from a backup.
  await query(room.dbUri, 'select pgws.new_epoch()')
  proxy.mode = 'pass'
  for (const page of pages) await page.locator('#state', { hasText: 'may have missed' }).waitFor()
  await query(room.dbUri, `select pgws.publish_text('kept:gap', 'after the gap')`)
  for (const page of pages) {
    await shown(page, 'after the gap')
    t.same(await payloads(page), ['after the gap'])
  }
})

t.test('a token is refreshed before it expires, and the connection continues', async (t) => {
  const exp = Math.floor(Date.now() / 1000) + 25
  const short = roomToken({ mode: 'rw', sub: 'carol', exp })
  const opened: string[] = []
  let refreshed = false
  const pages: Page[] = []
  for (const language of LANGUAGES) {
    const page = await room.window(t, { language, token: short })
    if (language === 'sdk') {
      // It joins again, so that its socket is counted.
      page.on('websocket', (socket) => {
        if (!socket.url().includes('/connection/websocket')) return
        opened.push(socket.url())
        socket.on('framesent', ({ payload }) => {
          if (String(payload).includes('"refresh"')) refreshed = true
        })
      })
      await page.click('#join')
      await connected(page)
    }
    pages.push(page)
  }
  for (const page of pages) {
    await until(async () => (await page.inputValue('#token')) !== short, 30_000)
    const fresh = await page.inputValue('#token')
    const claims = JSON.parse(Buffer.from(fresh.split('.')[1]!, 'base64url').toString())
    t.match(claims, { mode: 'rw', sub: 'carol' })
    t.ok(claims.exp > exp + 3000)
    t.equal(new URLSearchParams(new URL(page.url()).hash.slice(1)).get('token'), fresh)
  }
  await until(() => refreshed, 40_000)
  t.equal(opened.length, 1)
  // The others reconnect with the new token. Those that the first one admitted are closed.
  await until(() => Date.now() > (exp + 1) * 1000)
  for (const [index, page] of pages.entries()) {
    await connected(page)
    await send(page, `with a new token, by ${LANGUAGES[index]}`)
    for (const other of pages) await shown(other, `with a new token, by ${LANGUAGES[index]}`)
    t.equal(await page.locator('#people li').count(), 3)
  }
})

t.test('a table fills as rows are inserted, and shows nothing twice after a restart', async (t) => {
  const pages: Page[] = []
  for (const transport of ['websocket', 'sse']) {
    const page = await room.browser.newPage()
    page.on('pageerror', (error) => room.errors.push(error.message))
    const url = new URL('/table.html', room.address)
    const token = new URLSearchParams(new URL(room.address).hash.slice(1)).get('token')!
    url.hash = new URLSearchParams({ token, transport }).toString()
    await page.goto(url.href)
    await connected(page)
    t.match(await page.locator('#state').textContent(), transport === 'sse' ? /server-sent/ : /websocket/)
    pages.push(page)
  }
  const titles = (page: Page) => page.locator('#rows td:nth-child(2)').allTextContents()
  // As the page says.
  await room.sql(await pages[0]!.locator('#create').innerText())
  await room.sql(await pages[0]!.locator('#insert').innerText())
  for (const page of pages) await until(async () => (await titles(page)).length === 1)
  await room.stop()
  for (const page of pages) await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  await room.serve()
  await room.sql(`insert into realtime (title) values ('after <b>the</b> restart')`)
  for (const page of pages) {
    await until(async () => (await titles(page)).length === 2, 20_000)
    t.same(await titles(page), ['Hello from psql', 'after <b>the</b> restart'])
    await page.close()
  }
})

t.test('all pages comply with their content security policy', async (t) => {
  for (const [path, content] of [
    ['/', 'h1'],
    [`/table.html${new URL(room.address).hash}`, '#insert'],
    ['/documentation', '.opblock']
  ] as const) {
    const page = await room.browser.newPage()
    const complaints: string[] = []
    page.on('console', (message) => {
      if (message.type() === 'error') complaints.push(message.text())
    })
    page.on('pageerror', (error) => complaints.push(error.message))
    await page.goto(new URL(path, room.address).href)
    await page.locator(content).first().waitFor()
    t.same(complaints, [], path)
    await page.close()
  }
})

t.test('there was no script error', async (t) => {
  t.same(room.errors, [])
})
