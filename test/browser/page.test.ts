import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { chromium, type Page } from 'playwright-core'
import t from 'tap'
import { until } from '../helper.js'

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'pgws-page-'))
const server = createServer().listen(0, '127.0.0.1')
await once(server, 'listening')
const { port } = server.address() as { port: number }
server.close()

const environment = {
  PATH: process.env.PATH,
  HOME: folder,
  PGWS_EMBEDDED_FOLDER: join(folder, 'data'),
  PGWS_PORT: String(port),
  // One secret over both starts, as an application would have.
  PGWS_JWT_SECRET: 'a secret of the browser tests only'
}

/** Runs the server; resolves with its process and the page's address, as printed. */
async function serve(): Promise<{ child: ChildProcess; address: string }> {
  const child = spawn(process.execPath, [CLI], { cwd: folder, env: environment })
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  child.stderr.on('data', (chunk) => (output += chunk))
  await until(() => /psql '/.test(output) || child.exitCode !== null, 30_000)
  const address = /http:\/\/localhost:\d+\/#\S+/.exec(output)?.[0]
  if (address === undefined) throw new Error(output)
  return { child, address }
}

let { child, address } = await serve()
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

/** A window of its own on the page, connected. */
async function window(channel = 'chat'): Promise<Page> {
  const page = await browser.newPage()
  const url = new URL(address)
  const fragment = new URLSearchParams(url.hash.slice(1))
  fragment.set('channel', channel)
  url.hash = fragment.toString()
  page.on('pageerror', (error) => errors.push(error.message))
  await page.goto(url.href)
  await connected(page)
  return page
}

const connected = (page: Page) => page.locator('#state.connected').waitFor({ timeout: 20_000 })
const shown = (page: Page, text: string) =>
  page.locator('#messages .payload').getByText(text, { exact: true }).first().waitFor({ timeout: 10_000 })

/** Runs the SQL that the page shows, as a person would who pastes it. */
async function runShownSql(page: Page): Promise<void> {
  const text = await page.locator('#sql').innerText()
  await promisify(execFile)(process.execPath, [CLI, 'sql', text], { cwd: folder, env: environment })
}

t.test('two windows and SQL talk in one channel', async (t) => {
  const [one, two] = [await window(), await window()]
  await one.fill('#message', 'Hello from a browser')
  await one.press('#message', 'Enter')
  await shown(one, 'Hello from a browser')
  await shown(two, 'Hello from a browser')
  await runShownSql(one)
  await shown(one, 'Hello from SQL')
  await shown(two, 'Hello from SQL')
  const item = two.locator('#messages li').last()
  await item.locator('summary').click()
  t.match(JSON.parse(await item.locator('pre').innerText()), { channel: 'chat', payload: 'Hello from SQL' })
  t.match(await one.locator('#meta-messages').textContent(), /joined chat/)
  if (process.env.SCREENSHOTS) {
    await one.screenshot({ path: join(process.env.SCREENSHOTS, 'light.png'), fullPage: true })
    await one.emulateMedia({ colorScheme: 'dark' })
    await one.screenshot({ path: join(process.env.SCREENSHOTS, 'dark.png'), fullPage: true })
    await two.setViewportSize({ width: 380, height: 800 })
    await two.screenshot({ path: join(process.env.SCREENSHOTS, 'narrow.png'), fullPage: true })
  }
})

t.test('any channel name works, and what is sent is shown as text', async (t) => {
  for (const channel of ['o\'clock "ü" /%?#', 'health']) {
    const page = await window(channel)
    await page.fill('#message', '<img src=x onerror="document.title=1">')
    await page.click('#send')
    await shown(page, '<img src=x onerror="document.title=1">')
    await runShownSql(page)
    await shown(page, 'Hello from SQL')
    t.equal(await page.title(), 'fastify-pg-websockets')
    await page.close()
  }
})

t.test('a refused token is said to be refused', async (t) => {
  const page = await window()
  await page.fill('#token', 'nonsense')
  await page.click('#join')
  await page.locator('#state.closed').waitFor()
  t.match(await page.locator('#state').textContent(), /refused/)
  t.equal(await page.locator('#send').isDisabled(), true)
})

t.test('it reconnects by itself when the server is back', async () => {
  const page = await window()
  child.kill('SIGTERM')
  await once(child, 'exit')
  await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  const restarted = await serve()
  child = restarted.child
  await connected(page)
  await page.fill('#message', 'after the restart')
  await page.press('#message', 'Enter')
  await shown(page, 'after the restart')
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
  child = (await serve()).child
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
