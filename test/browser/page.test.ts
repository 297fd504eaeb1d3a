import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { chromium, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { FaultProxy } from '../support/fault-proxy.js'
import { query, token, until } from '../support/helper.js'
import { root } from '../support/root.js'

const CLI = join(root, 'dist/cli.js')
const folder = mkdtempSync(join(tmpdir(), 'pgws-page-'))
const server = createServer().listen(0, '127.0.0.1')
await once(server, 'listening')
const { port } = server.address() as { port: number }
server.close()

// One secret over both starts, as an application would have.
const SECRET = 'a secret of the browser tests only'
const environment = {
  PATH: process.env.PATH,
  HOME: folder,
  PGWS_EMBEDDED_FOLDER: join(folder, 'data'),
  PGWS_PORT: String(port),
  PGWS_JWT_SECRET: SECRET
}

/** Runs the server; resolves with its process, the page's address and the database's, as printed. */
async function serve(): Promise<{ child: ChildProcess; address: string; dbUri: string }> {
  const child = spawn(process.execPath, [CLI], { cwd: folder, env: environment })
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  child.stderr.on('data', (chunk) => (output += chunk))
  await until(() => /psql '/.test(output) || child.exitCode !== null, 30_000)
  const address = /http:\/\/localhost:\d+\/#\S+/.exec(output)?.[0]
  const dbUri = /psql '([^']+)'/.exec(output)?.[1]
  if (address === undefined || dbUri === undefined) throw new Error(output)
  return { child, address, dbUri }
}

let { child, address, dbUri } = await serve()
// Each test has a channel of its own, because a window shows what was sent before it was opened.
await query(dbUri, `select pgws.retain('kept:*', '1 day')`)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync'
  ]
})
t.teardown(async () => {
  await browser.close()
  child.kill('SIGTERM')
  await once(child, 'exit')
  rmSync(folder, { recursive: true, force: true })
})

const errors: string[] = []

type Language = 'sdk' | 'websocket' | 'sse'
const LANGUAGES: Language[] = ['sdk', 'websocket', 'sse']

interface Wanted {
  channel?: string
  language?: Language
  /** In place of the printed one. */
  token?: string
  /** In place of the server's. */
  port?: number
}

/** A window of its own on the page, connected; closed with the test. */
async function window(t: Test, wanted: Wanted = {}): Promise<Page> {
  const page = await browser.newPage()
  t.teardown(() => page.close())
  const url = new URL(address)
  if (wanted.port !== undefined) url.port = String(wanted.port)
  const fragment = new URLSearchParams(url.hash.slice(1))
  fragment.set('channel', wanted.channel ?? 'chat')
  fragment.set('transport', wanted.language ?? 'sdk')
  if (wanted.token !== undefined) fragment.set('token', wanted.token)
  url.hash = fragment.toString()
  page.on('pageerror', (error) => errors.push(error.message))
  await page.goto(url.href)
  await connected(page)
  return page
}

const connected = (page: Page) => page.locator('#state.connected').waitFor({ timeout: 20_000 })
const shown = (page: Page, text: string) =>
  page.locator('#messages .payload').getByText(text, { exact: true }).first().waitFor({ timeout: 20_000 })
const payloads = (page: Page) => page.locator('#messages .payload').allTextContents()

async function send(page: Page, text: string): Promise<void> {
  await page.fill('#message', text)
  await page.press('#message', 'Enter')
}

/** Runs the SQL that the page shows, as a person would who pastes it. */
async function runShownSql(page: Page): Promise<void> {
  const text = await page.locator('#sql').innerText()
  await promisify(execFile)(process.execPath, [CLI, 'sql', text], { cwd: folder, env: environment })
}

for (const language of LANGUAGES) {
  t.test(`two windows and SQL talk in one channel, by ${language}`, async (t) => {
    const [one, two] = [await window(t, { language }), await window(t, { language })]
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
    if (process.env.SCREENSHOTS && language === 'sdk') {
      await one.screenshot({ path: join(process.env.SCREENSHOTS, 'light.png'), fullPage: true })
      await one.emulateMedia({ colorScheme: 'dark' })
      await one.screenshot({ path: join(process.env.SCREENSHOTS, 'dark.png'), fullPage: true })
      await two.setViewportSize({ width: 380, height: 800 })
      await two.screenshot({ path: join(process.env.SCREENSHOTS, 'narrow.png'), fullPage: true })
    }
  })

  t.test(`who is here is shown, as others come and go, by ${language}`, async (t) => {
    const people = (page: Page) => page.locator('#people li span:first-child').allTextContents()
    const alice = token({ mode: 'rw', sub: 'alice' }, SECRET)
    const one = await window(t, { language, token: alice })
    await until(async () => (await people(one)).length === 1)
    t.same(await people(one), ['alice'])
    const two = await window(t, { language, token: token({ mode: 'r', sub: 'bob' }, SECRET) })
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

t.test('in a channel where nobody knows who is there, it says so', async (t) => {
  for (const language of LANGUAGES) {
    const page = await window(t, { channel: 'elsewhere', language })
    await page.locator('#people[data-empty*="does not track presence"]').waitFor({ state: 'attached' })
    await send(page, language)
    await shown(page, language)
  }
})

t.test('any channel name works, and what is sent is shown as text', async (t) => {
  for (const channel of ['o\'clock "ü" /%?#', 'health', 'token']) {
    const page = await window(t, { channel })
    await page.fill('#message', '<img src=x onerror="document.title=1">')
    await page.click('#send')
    await shown(page, '<img src=x onerror="document.title=1">')
    await runShownSql(page)
    await shown(page, 'Hello from SQL')
    t.equal(await page.title(), 'fastify-pg-websockets')
  }
})

t.test('without a channel, all that the token names are joined', async (t) => {
  const both = token({ mode: 'rw', channels: ['one', 'other'] }, SECRET)
  for (const language of LANGUAGES) {
    const page = await window(t, { channel: '', language, token: both })
    const hint = await page.locator('#language-hint').textContent()
    t.equal(/A raw websocket is used/.test(hint!), language === 'sdk')
    await send(page, language)
    await until(async () => (await payloads(page)).length === 2)
    t.same(await payloads(page), [language, language])
  }
})

t.test('a refused token is said to be refused', async (t) => {
  for (const language of LANGUAGES) {
    const page = await window(t, { language })
    await page.fill('#token', 'nonsense')
    await page.click('#join')
    await page.locator('#state.closed').waitFor()
    t.match(await page.locator('#state').textContent(), /refused/)
    t.equal(await page.locator('#send').isDisabled(), true)
  }
})

t.test('a token that has ended is said to have ended', async (t) => {
  const ended = token({ mode: 'rw', exp: Math.floor(Date.now() / 1000) - 60 }, SECRET)
  for (const language of LANGUAGES) {
    const page = await window(t, { language })
    await page.fill('#token', ended)
    await page.click('#join')
    await page.locator('#state.closed').waitFor()
    t.match(await page.locator('#state').textContent(), /the token has expired/)
  }
})

t.test('a token that may only write sends, and reads nothing', async (t) => {
  const reader = await window(t)
  for (const language of ['sdk', 'websocket'] as const) {
    const page = await window(t, { language, token: token({ mode: 'w' }, SECRET) })
    await send(page, `written by ${language}`)
    await shown(reader, `written by ${language}`)
    t.same(await payloads(page), [])
  }
})

t.test('a channel that is opened shows its last messages, then new ones', async (t) => {
  await query(dbUri, `select pgws.publish_text('kept:last', 'message ' || n) from generate_series(1, 60) n`)
  const pages: Page[] = []
  for (const language of LANGUAGES) pages.push(await window(t, { channel: 'kept:last', language }))
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
  // To join again is to start again.
  for (const page of pages) {
    await page.click('#join')
    await shown(page, 'message 61')
    t.same(await payloads(page), [...expected.slice(1), 'message 61'])
  }
})

t.test('a window that is opened while others publish shows each message once', async (t) => {
  let sent = 0
  let ended = false
  const publishing = (async () => {
    while (!ended) await query(dbUri, `select pgws.publish_text('kept:busy', $1)`, [String(++sent)])
  })()
  for (const language of [...LANGUAGES, ...LANGUAGES]) {
    const page = await window(t, { channel: 'kept:busy', language })
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

t.test('a switch shows the same room in another language: nothing is doubled, nothing is lost', async (t) => {
  const page = await window(t, { channel: 'kept:switch' })
  let sent = 0
  let ended = false
  const publishing = (async () => {
    while (!ended) await query(dbUri, `select pgws.publish_text('kept:switch', $1)`, [`message ${++sent}`])
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
  // So many the page shows.
  const all = Array.from({ length: sent }, (_, i) => `message ${i + 1}`)
  t.same(await payloads(page), all.slice(-500))
})

t.test('after a restart it goes on where it was: what was sent meanwhile comes once, in order', async (t) => {
  const proxy = await FaultProxy.start(t, port)
  const pages: Page[] = []
  for (const language of LANGUAGES)
    pages.push(await window(t, { channel: 'kept:restart', language, port: proxy.port }))
  // Nobody has seen a message of this channel yet, but for one.
  await query(dbUri, `select pgws.publish_text('kept:restart', 'before')`)
  for (const page of pages) await shown(page, 'before')
  proxy.mode = 'refuse'
  child.kill('SIGTERM')
  await once(child, 'exit')
  for (const page of pages) await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  ;({ child, dbUri } = await serve())
  await query(
    dbUri,
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

t.test('what cannot be replayed is said to be missing', async (t) => {
  const proxy = await FaultProxy.start(t, port)
  const pages: Page[] = []
  for (const language of LANGUAGES)
    pages.push(await window(t, { channel: 'kept:gap', language, port: proxy.port }))
  proxy.mode = 'refuse'
  proxy.cut()
  for (const page of pages) await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  // As after a restore from a backup.
  await query(dbUri, 'select pgws.new_epoch()')
  proxy.mode = 'pass'
  for (const page of pages) await page.locator('#state', { hasText: 'may have missed' }).waitFor()
  await query(dbUri, `select pgws.publish_text('kept:gap', 'after the gap')`)
  for (const page of pages) {
    await shown(page, 'after the gap')
    t.same(await payloads(page), ['after the gap'])
  }
})

t.test('a token that ends is refreshed before, and the connection goes on', async (t) => {
  const exp = Math.floor(Date.now() / 1000) + 25
  const short = token({ mode: 'rw', sub: 'carol', exp }, SECRET)
  const opened: string[] = []
  let refreshed = false
  const pages: Page[] = []
  for (const language of LANGUAGES) {
    const page = await window(t, { language, token: short })
    if (language === 'sdk') {
      // Joined once more, so that its socket is seen.
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
  // The others come back with the new token; whom the first one has let in are gone.
  await until(() => Date.now() > (exp + 1) * 1000)
  for (const [index, page] of pages.entries()) {
    await connected(page)
    await send(page, `with a new token, by ${LANGUAGES[index]}`)
    for (const other of pages) await shown(other, `with a new token, by ${LANGUAGES[index]}`)
    t.equal(await page.locator('#people li').count(), 3)
  }
})

t.test('a table fills as rows are inserted; after a restart nothing is shown twice', async (t) => {
  const sql = (text: string) =>
    promisify(execFile)(process.execPath, [CLI, 'sql', text], { cwd: folder, env: environment })
  const pages: Page[] = []
  for (const transport of ['websocket', 'sse']) {
    const page = await browser.newPage()
    page.on('pageerror', (error) => errors.push(error.message))
    const url = new URL('/table.html', address)
    const token = new URLSearchParams(new URL(address).hash.slice(1)).get('token')!
    url.hash = new URLSearchParams({ token, transport }).toString()
    await page.goto(url.href)
    await connected(page)
    t.match(await page.locator('#state').textContent(), transport === 'sse' ? /server-sent/ : /websocket/)
    pages.push(page)
  }
  const titles = (page: Page) => page.locator('#rows td:nth-child(2)').allTextContents()
  // As the page says it.
  await sql(await pages[0]!.locator('#create').innerText())
  await sql(await pages[0]!.locator('#insert').innerText())
  for (const page of pages) await until(async () => (await titles(page)).length === 1)
  child.kill('SIGTERM')
  await once(child, 'exit')
  for (const page of pages) await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  ;({ child, dbUri } = await serve())
  await sql(`insert into realtime (title) values ('after <b>the</b> restart')`)
  for (const page of pages) {
    await until(async () => (await titles(page)).length === 2, 20_000)
    t.same(await titles(page), ['Hello from psql', 'after <b>the</b> restart'])
    await page.close()
  }
})

t.test('all pages pass their own content security policy', async (t) => {
  for (const [path, content] of [
    ['/', 'h1'],
    [`/table.html${new URL(address).hash}`, '#insert'],
    ['/documentation', '.opblock']
  ] as const) {
    const page = await browser.newPage()
    const complaints: string[] = []
    page.on('console', (message) => {
      if (message.type() === 'error') complaints.push(message.text())
    })
    page.on('pageerror', (error) => complaints.push(error.message))
    await page.goto(new URL(path, address).href)
    await page.locator(content).first().waitFor()
    t.same(complaints, [], path)
    await page.close()
  }
})

t.test('no script error came up', async (t) => {
  t.same(errors, [])
})
