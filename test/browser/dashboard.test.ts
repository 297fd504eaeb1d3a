import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { run } from '../support/app.js'
import { launch, violations } from '../support/browser.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { build, open, query, token, until } from '../support/helper.js'

const SECRET = 'a secret of the browser tests only'
/** A text that would run as a script if it were inserted as HTML. */
const EVIL = `<img src=x onerror="document.title='hacked'">`
const VIEWS = ['overview', 'channels', 'channel?name=chat', 'connections', 'events', 'rules', 'revocations']

const folder = mkdtempSync(join(tmpdir(), 'pgws-dashboard-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
const app = await run(t, {
  PGWS_EMBEDDED_FOLDER: join(folder, 'data'),
  PGWS_JWT_SECRET: SECRET,
  PGWS_NODE_TIMEOUT: '2000'
})
await until(() => /psql '/.test(app.output()) || app.child.exitCode !== null)
const address = /http:\/\/localhost:\d+\/dashboard#\S+/.exec(app.output())![0]
const dbUri = /psql '([^']+)'/.exec(app.output())![1]!
const ws = `ws://localhost:${app.port}`
const browser = await launch(t)
t.teardown(async () => {
  app.child.kill('SIGTERM')
  await once(app.child, 'exit')
})

const complaints: string[] = []
const elsewhere: string[] = []
const rw = (sub: string, claims: object = {}) => token({ mode: 'rw', sub, ...claims }, SECRET)
const client = (t: Test, channel: string, sub: string, base = ws) =>
  open(t, `${base}/${encodeURIComponent(channel)}/${rw(sub)}`, { headers: { 'user-agent': `agent ${EVIL}` } })

/** A new tab with a view of the dashboard. It is closed after the test. */
async function tab(t: Test, view = 'overview', url = address): Promise<Page> {
  const context = await browser.newContext()
  const page = await context.newPage()
  t.teardown(() => context.close())
  page.on('pageerror', (error) => complaints.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(`${message.text()} ${message.location().url}`)
  })
  page.on('request', (request) => {
    if (!request.url().startsWith(`http://localhost:${app.port}/`) && !request.url().startsWith('data:')) {
      elsewhere.push(request.url())
    }
  })
  await page.goto(url)
  if (url === address) {
    await page.locator('#state.connected').waitFor()
    if (view !== 'overview') await go(page, view)
  }
  return page
}

async function go(page: Page, view: string): Promise<void> {
  await page.evaluate((to) => {
    ;(globalThis as unknown as { location: { hash: string } }).location.hash = `#/${to}`
  }, view)
  const [name] = view.split('?')
  await page.locator(`#views a[aria-current]`).waitFor()
  await page.waitForURL((url) => url.hash.startsWith(`#/${name}`))
}

const rows = (page: Page) => page.locator('table.list tbody tr')
const shown = (page: Page, text: string | RegExp) => page.getByText(text).first().waitFor()
const channelView = (name: string) => `channel?${new URLSearchParams({ name })}`

t.test('opens at the printed address, and moves the token from the address to the tab', async (t) => {
  const page = await tab(t)
  t.notMatch(page.url(), /token/)
  t.equal(await page.title(), 'Overview – Dashboard')
  await page.reload()
  await page.locator('#state.connected').waitFor()
  const stored = () =>
    page.evaluate(() => JSON.stringify((globalThis as never as { sessionStorage: object }).sessionStorage))
  t.match(await stored(), /eyJ/)
  t.equal(
    await page.evaluate(() => (globalThis as never as { localStorage: object[] }).localStorage.length),
    0
  )
  for (const [text, path] of [
    ['Sample room', '/'],
    ['Live table', '/table.html'],
    ['API documentation', '/documentation']
  ] as const) {
    const href = await page
      .getByRole('link', { name: text })
      .evaluate((link) => (link as never as { href: string }).href)
    t.equal(new URL(href).pathname, path)
    t.equal((await page.request.get(href)).status(), 200)
  }
  await page.getByRole('button', { name: 'Forget the token' }).click()
  await page.getByLabel('Token').waitFor()
  t.notMatch(await stored(), /eyJ/)
  const another = await tab(t, '', address.split('#')[0]!)
  await another.getByLabel('Token').waitFor()
})

t.test('shows the error of the server for a wrong token, and for one without admin rights', async (t) => {
  const before = complaints.length
  const page = await tab(t, '', address.split('#')[0]!)
  for (const [wrong, sentence] of [
    ['nonsense', 'the token is not a JSON Web Token'],
    [token({ admin: true }, 'another secret'), /signature|not signed/],
    [rw('ann'), 'Only administrators may do this'],
    [token({ admin: true, exp: 1 }, SECRET), 'Token expired']
  ] as const) {
    await page.getByLabel('Token').fill(wrong)
    await page.getByRole('button', { name: 'Open the dashboard' }).click()
    await page.getByRole('alert').filter({ hasText: sentence }).waitFor()
  }
  await page.getByLabel('Token').fill(new URLSearchParams(address.split('#')[1]).get('token')!)
  await page.keyboard.press('Enter')
  await page.locator('#state.connected').waitFor()
  // The browser reports answers with 401 and 403 in its console.
  t.notOk(complaints.splice(before).some((text) => !/status of 40[13]/.test(text)))
})

t.test('the overview shows connections and messages, of all nodes and of one', async (t) => {
  const { ws: second } = await build(t, {
    dbUri,
    jwtSecret: SECRET,
    nodeTimeout: 2000,
    metaChannel: ''
  } as never)
  const page = await tab(t)
  const tile = (name: string) => page.locator('.tile', { hasText: name }).locator('dd')
  await until(async () => (await page.locator('.node').count()) === 2)
  for (const card of await page.locator('.node').all()) t.match(await card.textContent(), /listener\s*up/)
  const before = Number(await tile('connections').textContent())
  const one = await client(t, 'flow', 'ann')
  const two = await client(t, 'flow', 'bob', second)
  await until(async () => Number(await tile('connections').textContent()) === before + 2)
  const timer = setInterval(() => one.send('tick'), 20)
  t.teardown(() => clearInterval(timer))
  await until(async () => parseFloat((await tile('messages in').textContent())!) > 0)
  await until(async () => parseFloat((await tile('messages out').textContent())!) > 0)
  t.ok(two.messages.length > 0)
  const cell = (plot: string, series: string, column: number) =>
    page.locator('figure', { hasText: plot }).locator('tr', { hasText: series }).locator('td').nth(column)
  await until(async () => parseFloat((await cell('Messages', 'out', 2).textContent())!) > 0)
  await until(async () => /ms/.test((await cell('Delivery', 'p99', 2).textContent())!))
  await until(async () => /MiB/.test((await cell('Memory', 'resident', 0).textContent())!))
  t.ok((await page.locator('figure canvas').count()) === 6)
  await page.getByLabel('Nodes of the figures').selectOption({ index: 1 })
  await until(async () => Number(await tile('connections').textContent()) < before + 2)
})

t.test('channels: search, order, marks and pages', async (t) => {
  await query(dbUri, `select pgws.retain('dash-kept', '1 day')`)
  await client(t, EVIL, 'ann')
  for (const sub of ['ann', 'bob', 'carol']) await client(t, 'dash-kept', sub)
  for (let n = 0; n < 60; n++) await client(t, `many:${String(n).padStart(2, '0')}`, 'ann')
  const page = await tab(t, 'channels')
  await page.getByLabel('Name contains').fill('dash-k')
  await until(async () => (await rows(page).count()) === 1)
  t.match((await rows(page).first().innerText()).split(/\s+/), ['dash-kept', 'durable', '3', '3', '3'])
  await page.getByLabel('Name contains').fill('<img')
  await until(async () => (await rows(page).locator('a').first().textContent()) === EVIL)
  await page.getByLabel('Name contains').fill('many:')
  await until(async () => (await rows(page).locator('a').first().textContent()) === 'many:00')
  await shown(page, '60 channels, 1 to 50 of them here')
  await page.getByRole('button', { name: 'Next page' }).click()
  await shown(page, '60 channels, 51 to 60 of them here')
  t.equal(await rows(page).locator('a').first().textContent(), 'many:50')
  t.equal(await page.getByRole('button', { name: 'Next page' }).isDisabled(), true)
  await page.getByRole('button', { name: 'Previous page' }).click()
  await shown(page, '60 channels, 1 to 50 of them here')
  await page.getByLabel('Name contains').fill('')
  await page.getByLabel('Order by').selectOption('readers')
  await until(async () => (await rows(page).locator('a').first().textContent()) === 'dash-kept')
  // After a reload, it shows the same.
  await page.reload()
  t.equal(await page.getByLabel('Order by').inputValue(), 'readers')
  await rows(page).locator('a', { hasText: 'dash-kept' }).click()
  await page.getByRole('heading', { name: 'dash-kept' }).waitFor()
})

t.test(
  'a channel: live messages, history, members, and publishing with the count of receivers',
  async (t) => {
    const reader = await client(t, 'chat', 'ann')
    await query(dbUri, `select pgws.publish_text('chat', 'stored ' || n) from generate_series(1, 30) n`)
    await reader.received(30)
    const page = await tab(t, 'channel?name=chat')
    await shown(page, 'Following. New messages appear here.')
    const history = page.getByRole('list', { name: 'Stored messages' })
    await history.getByText('stored 30', { exact: true }).waitFor()
    t.equal(await history.locator('li').count(), 20)
    await page.getByRole('button', { name: 'Older messages' }).click()
    await history.getByText('stored 1', { exact: true }).waitFor()
    await page.locator('.members').getByText('ann', { exact: true }).waitFor()
    const publish = async (payload: string, kind: 'text' | 'JSON', as = '') => {
      await page.getByLabel(kind, { exact: true }).check()
      await page.getByLabel('Payload', { exact: true }).fill(payload)
      await page.getByLabel('As (the sub of the sender)').fill(as)
      await page.getByRole('button', { name: 'Publish' }).click()
    }
    const live = page.getByRole('log', { name: 'Messages as they come' }).locator('li')
    await publish(EVIL, 'text')
    await live.getByText(EVIL).waitFor()
    await shown(page, 'Received by 2 clients, this page included, on 1 node.')
    // What is written while the answer is on its way stays.
    let answer = () => {}
    const held = new Promise<void>((resolve) => {
      answer = resolve
    })
    await page.route('**/publish', async (route) => {
      await held
      await route.continue()
    })
    await publish('first', 'text')
    await page.getByLabel('Payload', { exact: true }).fill('second')
    answer()
    await page.getByRole('button', { name: 'Publish', disabled: false }).waitFor()
    await reader.received(32)
    t.equal(await page.getByLabel('Payload', { exact: true }).inputValue(), 'second')
    await page.unroute('**/publish')
    await publish('{"n": 12345678901234567890, "a": [1]}', 'JSON', EVIL)
    await until(() => reader.messages.length === 33)
    t.match(reader.messages[32], /"payload":\{"n": ?12345678901234567890/)
    t.equal(JSON.parse(reader.messages[32]!).claims.sub, EVIL)
    t.match(JSON.parse(reader.messages[30]!), { payload: EVIL, claims: { sub: 'operator' } })
    await live.nth(2).getByText(EVIL).waitFor()
    await publish('{"n": ', 'JSON')
    await page.getByRole('alert').filter({ hasText: 'This is not JSON' }).waitFor()
    // A message from another kind of client.
    reader.send('from a socket')
    await live.getByText('from a socket').waitFor()
    await page.getByRole('button', { name: 'Stop' }).click()
    reader.send('unseen')
    await reader.received(35)
    await page.getByRole('button', { name: 'Follow' }).click()
    // The channel is durable, so later messages appear, too.
    await live.getByText('unseen').waitFor()
    t.equal(await live.getByText('from a socket').count(), 1)
  }
)

t.test('any channel name works', async (t) => {
  for (const name of [EVIL, 'o\'clock "ü" /%?#&=+', 'a/history', 'x'.repeat(1000)]) {
    const reader = await client(t, name, 'ann')
    const page = await tab(t, channelView(name))
    await shown(page, 'Following. New messages appear here.')
    await page.getByText(/^2 connections: 2 readers/).waitFor()
    await page.getByLabel('Payload', { exact: true }).fill(`hello ${name.slice(0, 20)}`)
    await page.getByRole('button', { name: 'Publish' }).click()
    t.match(JSON.parse((await reader.received(1))[0]!), {
      channel: name,
      payload: `hello ${name.slice(0, 20)}`
    })
    await page
      .getByRole('log')
      .getByText(`hello ${name.slice(0, 20)}`)
      .waitFor()
  }
})

t.test('connections: filters, counters, and disconnecting one or all after a confirmation', async (t) => {
  const evil = await client(t, 'con', EVIL)
  const others = await Promise.all(['dora', 'dora', 'dora', 'emil'].map((sub) => client(t, 'con', sub)))
  const page = await tab(t, 'connections')
  t.equal(await page.getByRole('button', { name: 'Disconnect all that match …' }).isDisabled(), true)
  await page.getByLabel('Channel', { exact: true }).fill('con')
  await shown(page, '5 connections')
  await page.getByLabel('Transport').selectOption('event-stream')
  await shown(page, 'No connection matches.')
  await page.getByLabel('Transport').selectOption('websocket')
  await page.getByLabel('Subject').fill(EVIL)
  await shown(page, '1 connection')
  t.match(await rows(page).first().innerText(), /websocket[\s\S]*agent <img src=x/)
  // One connection. Without a confirmation, nothing happens.
  await page.getByRole('button', { name: `Disconnect ${EVIL}` }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByRole('heading', { name: 'Disconnect 1 connection?' }).waitFor()
  await page.keyboard.press('Escape')
  await dialog.waitFor({ state: 'detached' })
  t.equal(evil.webSocket.readyState, evil.webSocket.OPEN)
  const ended = evil.closed()
  await page.getByRole('button', { name: `Disconnect ${EVIL}` }).click()
  await dialog.getByLabel('Reason that clients get').fill('maintenance')
  await dialog.getByRole('button', { name: 'Disconnect 1' }).click()
  t.same(await ended, { code: 3000, reason: 'maintenance' })
  await shown(page, 'Disconnected 1 connection.')
  // All connections of one subject.
  await page.getByLabel('Subject').fill('dora')
  await shown(page, '3 connections')
  const all = Promise.all(others.slice(0, 3).map((other) => other.closed()))
  await page.getByRole('button', { name: 'Disconnect all that match …' }).click()
  await dialog.getByRole('heading', { name: 'Disconnect 3 connections?' }).waitFor()
  await dialog.getByRole('button', { name: 'Disconnect 3' }).click()
  for (const { code } of await all) t.equal(code, 3000)
  await shown(page, 'Disconnected 3 connections.')
  t.equal(others[3]!.webSocket.readyState, evil.webSocket.OPEN)
})

t.test('events: shows refusals at once, with the texts of the server, and filters by type', async (t) => {
  const page = await tab(t, 'events')
  const list = page.getByRole('log', { name: 'Events' })
  await t.rejects(open(t, `${ws}/chat/${token({ mode: 'rw', exp: 1 }, SECRET)}`))
  await list.getByText('Token expired').first().waitFor()
  const gone = await client(t, EVIL, EVIL)
  gone.webSocket.close()
  await list.locator('.event', { hasText: EVIL }).first().waitFor()
  await page.getByLabel('Type').selectOption('refusal')
  await until(async () => {
    const types = await list.locator('.badge').allTextContents()
    return types.length > 0 && types.every((type) => type === 'refusal' || type.startsWith('×'))
  })
  await page.getByLabel('Contains').fill('no such event')
  await shown(page, 'No event matches.')
})

t.test('rules: shows retention rules and watched tables, with SQL that works', async (t) => {
  await query(dbUri, `select pgws.retain($1, '2 hours')`, [EVIL])
  await query(dbUri, 'create table orders (id int primary key)')
  await query(dbUri, `select pgws.watch('orders', 'table:orders')`)
  const page = await tab(t, 'rules')
  const rule = page.locator('.rule', { hasText: EVIL })
  await rule.first().waitFor()
  await page.locator('.rule', { hasText: 'orders' }).first().waitFor()
  t.ok((await page.locator('.rule').first().locator('code').count()) > 0)
})

t.test('revocations: adds, applies, lists and removes them', async (t) => {
  const page = await tab(t, 'revocations')
  await shown(page, 'No token is revoked.')
  const iat = Math.floor(Date.now() / 1000) - 60
  const open1 = await open(t, `${ws}/chat/${rw(`frank ${EVIL}`, { iat })}`)
  const closed = open1.closed()
  await page.getByLabel('Its value').fill(`frank ${EVIL}`)
  await page.getByLabel('Reason').fill('lost phone')
  await page.getByRole('button', { name: 'Revoke …' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click()
  await shown(page, 'Revoked.')
  await closed
  await t.rejects(open(t, `${ws}/chat/${rw(`frank ${EVIL}`, { iat })}`))
  await until(async () => (await rows(page).count()) === 1)
  t.match(await rows(page).first().innerText(), /frank <img[\s\S]*lost phone[\s\S]*by operator/)
  await page.getByRole('button', { name: /^Remove the revocation/ }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click()
  await shown(page, 'No token is revoked.')
  await until(async () => {
    const again = await open(t, `${ws}/chat/${rw(`frank ${EVIL}`, { iat })}`).catch(() => undefined)
    again?.webSocket.close()
    return again !== undefined
  })
})

t.test('the live stream reconnects by itself, and shows nothing twice', async (t) => {
  const before = complaints.length
  const proxy = await FaultProxy.start(t, app.port)
  const url = new URL(address)
  url.host = `127.0.0.1:${proxy.port}`
  const page = await tab(t, '', url.href)
  await page.locator('#state.connected').waitFor()
  await go(page, 'events')
  await page.locator('.event').first().waitFor()
  proxy.mode = 'refuse'
  proxy.cut()
  await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  await t.rejects(open(t, `${ws}/chat/${token({ mode: 'rw', channels: ['another'] }, SECRET)}`))
  proxy.mode = 'pass'
  await page.locator('#state.connected').waitFor()
  await shown(page, 'the token does not allow the channel of the address')
  const texts = await page.locator('.event').allTextContents()
  t.equal(new Set(texts).size, texts.length)
  complaints.splice(before)
  elsewhere.splice(0)
})

t.test('WCAG AA, and no horizontal scrolling, in all views, widths and colors', async (t) => {
  await client(t, EVIL, EVIL)
  await client(t, 'x'.repeat(1000), 'y'.repeat(500))
  await t.rejects(open(t, `${ws}/chat/nonsense.nonsense.nonsense`))
  const page = await tab(t)
  for (const view of VIEWS) {
    await go(page, view)
    for (const width of [390, 768, 1280, 1920]) {
      await page.setViewportSize({ width, height: 900 })
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme })
        if (width === 390 || width === 1280)
          t.same(await violations(page), [], `${view} ${width} ${colorScheme}`)
        const over = await page.evaluate(() => {
          const { document, innerWidth } = globalThis as never as {
            document: { documentElement: { scrollWidth: number } }
            innerWidth: number
          }
          return document.documentElement.scrollWidth - innerWidth
        })
        t.ok(over <= 0, `${view} is ${over} px too wide at ${width}`)
        if (process.env.SCREENSHOTS) {
          const name = `${view.replace(/\W.*/, '')}-${width}-${colorScheme}.png`
          await page.screenshot({ path: join(process.env.SCREENSHOTS, name), fullPage: true })
        }
      }
    }
  }
})

t.test('can be used with the keyboard alone', async (t) => {
  const page = await tab(t)
  const focused = () =>
    page.evaluate(() => {
      const { document } = globalThis as never as {
        document: { activeElement: { textContent: string; id: string } }
      }
      return document.activeElement.id || document.activeElement.textContent
    })
  await page.reload()
  await page.locator('#state.connected').waitFor()
  await page.keyboard.press('Tab')
  t.equal(await focused(), 'skip')
  await page.keyboard.press('Enter')
  t.equal(await focused(), 'main')
  await page.locator('#views a', { hasText: 'Overview' }).focus()
  await page.keyboard.press('Tab')
  t.equal(await focused(), 'Channels')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Channels', level: 1 }).waitFor()
  // The focus moves to the new content.
  t.equal(await focused(), 'main')
  t.equal(await page.title(), 'Channels – Dashboard')
  await page.goBack()
  await page.getByRole('heading', { name: 'Overview', level: 1 }).waitFor()
})

t.test(
  'there was no script error, no violation of the policy, and no request to another address',
  async (t) => {
    t.same(complaints, [])
    t.same(elsewhere, [])
  }
)
