import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { chromium, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { migrate } from '../../lib/schema/migrate.js'
import { freePort } from '../support/app.js'
import { build, LISTEN_CHANNEL, query, token, until, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking'
  ]
})
t.teardown(() => browser.close())

const PACKAGES = { '5.3': 'centrifuge-5-3', '5.7': 'centrifuge-5-7', '5.8': 'centrifuge' }
const bundle = (name: string) => readFileSync(join(root, `node_modules/${name}/dist/centrifuge.js`), 'utf8')

/** What the SDK of a page has reported. */
interface Reported {
  data: unknown[]
  recovered: boolean[]
  transport: string
  users: string[]
}

/** Two nodes. The first one serves an empty page. */
async function nodes(t: Test) {
  const dbUri = await database()
  const client = new pg.Client(dbUri)
  await client.connect()
  await migrate(client, LISTEN_CHANNEL)
  await client.query(`select pgws.retain('room:*', interval '1 hour')`)
  await client.end()
  const options = { dbUri, presenceChannels: 'room:*' }
  const first = await build(t, options, {
    before: (fastify) =>
      fastify.get('/', (_request, reply) => reply.type('text/html').send('<!doctype html><title>SDK</title>'))
  })
  const second = await build(t, { ...options, allowedOrigins: first.http })
  return { dbUri, first, second }
}

/** Makes the page connect. `window.reported` collects what its SDK reports. */
async function connect(
  page: Page,
  version: keyof typeof PACKAGES,
  settings: object
): Promise<() => Promise<Reported>> {
  await page.evaluate(`${bundle(PACKAGES[version])}; window.Centrifuge ??= Centrifuge`)
  await page.evaluate(`(({ endpoints, options }) => {
    const reported = (window.reported = { data: [], recovered: [], transport: '', users: [] })
    const client = (window.client = new Centrifuge(endpoints, { minReconnectDelay: 50, ...options }))
    client.on('connected', ({ transport }) => { reported.transport = transport })
    const room = client.newSubscription('room:a', { joinLeave: true })
    room.on('publication', ({ data }) => reported.data.push(data))
    room.on('join', ({ info }) => reported.users.push(info.user))
    room.on('subscribed', ({ wasRecovering, recovered }) => { if (wasRecovering) reported.recovered.push(recovered) })
    room.subscribe()
    client.connect()
  })(${JSON.stringify(settings)})`)
  return () => page.evaluate('window.reported') as Promise<Reported>
}

for (const version of Object.keys(PACKAGES) as (keyof typeof PACKAGES)[]) {
  for (const blocked of [false, true]) {
    const title = blocked ? 'falls back where websockets are blocked' : 'speaks over a websocket'
    t.test(`the SDK ${version} in Chromium ${title}, and recovers`, async (t) => {
      const { dbUri, first, second } = await nodes(t)
      // Nothing listens there.
      const websocket = blocked ? `ws://127.0.0.1:${await freePort()}` : first.ws
      const page = await browser.newPage()
      t.teardown(() => page.close())
      await page.goto(first.http)
      const reported = await connect(page, version, {
        endpoints: [
          { transport: 'websocket', endpoint: `${websocket}/connection/websocket` },
          { transport: 'http_stream', endpoint: `${first.http}/connection/http_stream` },
          { transport: 'sse', endpoint: `${first.http}/connection/sse` }
        ],
        // Commands go to the other node.
        options: {
          token: token({ mode: 'rw', sub: 'browser' }),
          emulationEndpoint: `${second.http}/emulation`
        }
      })
      await until(async () => (await reported()).users.includes('browser'), 20_000)
      t.equal((await reported()).transport, blocked ? 'http_stream' : 'websocket')
      await page.evaluate(`window.client.publish('room:a', 'from the browser')`)
      await second.fastify.pgws.publish('room:a', 'from the other node')
      await until(async () => (await reported()).data.length === 2)
      t.equal((await second.fastify.pgws.presence('room:a')).count, 1)
      await first.fastify.pgws.disconnect({ subject: 'browser' }, { code: 3012, reason: 'come again' })
      await query(dbUri, `select pgws.publish_text('room:a', 'meanwhile')`)
      await until(async () => (await reported()).data.length === 3, 20_000)
      t.same((await reported()).data, ['from the browser', 'from the other node', 'meanwhile'])
      await until(async () => (await reported()).recovered.length === 1)
      t.same((await reported()).recovered, [true])
      await page.evaluate('window.client.disconnect()')
    })
  }
}
