import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { stream } from '../support/event-stream.js'
import { build, open, token, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

/** Reads the body, too, because the server would wait for that when it closes. */
async function get(url: string, init: RequestInit = {}) {
  const answer = await fetch(url, init)
  return { status: answer.status, headers: answer.headers, text: await answer.text() }
}

t.test('the dashboard is off by default', async (t) => {
  const { http } = await build(t, { dbUri })
  for (const path of ['/dashboard', '/dashboard/main.js', '/dashboard/about.json']) {
    t.equal((await get(http + path)).status, 404, path)
  }
})

t.test('serves all files of the page below a prefix, with a strict policy', async (t) => {
  const { http, ws } = await build(t, { dbUri, dashboard: true, httpRateLimit: 3 })
  const below = await build(t, { dbUri, dashboard: true, prefix: '/realtime/v1' } as never)
  for (const base of [http, `${below.http}/realtime/v1`]) {
    const page = await get(`${base}/dashboard`)
    t.equal(page.status, 200)
    t.match(page.headers.get('content-type'), /^text\/html/)
    t.equal(page.headers.get('content-security-policy'), POLICY)
    t.equal(page.headers.get('x-content-type-options'), 'nosniff')
    const html = page.text
    t.notMatch(html, /\bstyle=|\bon\w+=|<style|<script>/)
    const named = [...html.matchAll(/(?:src|href)="(dashboard\/[^"]+)"/g)].map(([, path]) => path!)
    t.ok(named.length >= 4)
    const modules = readdirSync(join(root, 'public/dashboard')).filter((name) => name.endsWith('.js'))
    for (const path of new Set([...named, ...modules.map((name) => `dashboard/${name}`)])) {
      const file = await get(`${base}/${path}`)
      t.equal(file.status, 200, path)
      t.ok(file.text.length > 0)
      t.equal(file.headers.get('content-security-policy'), POLICY)
      t.match(file.headers.get('content-type'), path.endsWith('.css') ? /^text\/css/ : /javascript/, path)
    }
    // The files of the page are named relative to it.
    const slashed = await get(`${base}/dashboard/?a=b`, { redirect: 'manual' })
    t.equal(slashed.status, 308)
    t.equal(new URL(slashed.headers.get('location')!, `${base}/dashboard/`).href, `${base}/dashboard`)
    for (const path of [
      '/dashboard/nothing.js',
      '/dashboard/..%2f..%2fpackage.json',
      '/dashboard/%2e%2e/page.js'
    ]) {
      t.equal((await get(base + path)).status, 404, path)
    }
    t.same(((await (await fetch(`${base}/dashboard/about.json`)).json()) as { links: unknown }).links, [
      { href: 'documentation', text: 'API documentation' }
    ])
  }
  // A channel can have the name of the page, or one that begins with it.
  const rw = token({ mode: 'rw' })
  for (const base of [ws, `${below.ws}/realtime/v1`]) {
    const client = await open(t, `${base}/dashboard/${rw}`)
    client.send('hello')
    t.match((await client.received(1))[0], /"channel":"dashboard"/)
    await stream(t, `${base.replace('ws', 'http')}/dashboard/${rw}`)
  }
})

t.test('the page has no inline styles or scripts, and never inserts texts as HTML', async (t) => {
  const folder = join(root, 'public/dashboard')
  for (const name of readdirSync(folder).filter((name) => /\.js$/.test(name) && name !== 'uPlot.js')) {
    const code = readFileSync(join(folder, name), 'utf8')
    t.notMatch(
      code,
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|style:/,
      name
    )
    t.ok(code.split('\n').length < 300, name)
  }
})
