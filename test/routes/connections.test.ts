import t, { type Test } from 'tap'
import { stream } from '../support/event-stream.js'
import { build, open, token, until, withPostgres } from '../support/helper.js'
import { sdk, subscribed } from '../support/sdk.js'
import { streaming } from '../support/streams.js'

const { database } = await withPostgres(t)

const admin = token({ admin: true, sub: 'the operator' })
const rw = (sub: string, claims: object = {}) => token({ mode: 'rw', sub, ...claims })

/** Two nodes that know each other. */
async function nodes(t: Test) {
  const dbUri = await database()
  const [here, other] = [await build(t, { dbUri }), await build(t, { dbUri })]
  await until(() => [here, other].every(({ fastify }) => fastify.pgws.nodes().length === 2))
  return { here, other }
}

async function ask(http: string, path: string, method = 'GET') {
  const response = await fetch(http + path, { method, headers: { authorization: `Bearer ${admin}` } })
  const { headers, status } = response
  return {
    status,
    body: (await response.json()) as unknown,
    next: headers.get('x-pgws-next'),
    total: headers.get('x-pgws-total')
  }
}
// biome-ignore lint/suspicious/noExplicitAny: the test checks what answers contain.
const list = async (http: string, query = '') => (await ask(http, `/connections${query}`)).body as any[]

t.test('a connection shows its transport, user agent, expiry and counters', async (t) => {
  const { here } = await nodes(t)
  const exp = Math.floor(Date.now() / 1000) + 3600
  const socket = await open(t, `${here.ws}/a/${rw('ann', { exp })}`, {
    headers: { 'user-agent': 'x'.repeat(300) }
  })
  await stream(t, `${here.http}/a/${rw('bob')}`, { 'user-agent': 'a reader' })
  const client = sdk(t, here.ws, { token: rw('cem') })
  const { subscription } = subscribed(client, 'a')
  const emulated = streaming(
    t,
    'http_stream',
    { http: here.http, emulation: here.http },
    { token: rw('dee') }
  )
  client.connect()
  emulated.connect()
  await Promise.all([subscription.ready(30_000), emulated.ready(30_000)])
  socket.send('one')
  socket.send('two')
  await socket.received(2)
  const bytes = socket.messages.reduce((sum, text) => sum + Buffer.byteLength(text), 0)

  const [ann] = await list(here.http, '?subject=ann')
  t.match(ann, {
    transport: 'websocket',
    userAgent: 'x'.repeat(200),
    expiresAt: new Date(exp * 1000).toISOString(),
    receivedMessages: 2,
    sentMessages: 2
  })
  t.notOk('protocol' in ann)
  // With the head of each frame (RFC 6455, section 5.2).
  t.ok(ann.sentBytes > bytes && ann.sentBytes <= bytes + 2 * 14, `${ann.sentBytes} for ${bytes}`)
  t.match(await list(here.http, '?transport=event-stream'), [
    { subject: 'bob', userAgent: 'a reader', expiresAt: null, receivedMessages: 0, sentMessages: 2 }
  ])
  t.match(await list(here.http, '?transport=sdk-websocket'), [{ subject: 'cem', protocol: 'json' }])
  t.match(await list(here.http, '?transport=sdk-http-stream'), [{ subject: 'dee', protocol: 'json' }])
  t.equal((await list(here.http, '?address=127.0.0.1')).length, 4)
  t.same(await list(here.http, '?address=127.0.0.2'), [])
  t.match((await ask(here.http, '/connections?transport=telex')).body, {
    message: /"transport" must be one of "websocket"/
  })
})

t.test('pages of all nodes contain each connection once, even if others connect and leave', async (t) => {
  const { here, other } = await nodes(t)
  const sockets = await Promise.all(
    Array.from({ length: 25 }, (_, n) => open(t, `${n % 3 === 0 ? here.ws : other.ws}/a/${rw(`user ${n}`)}`))
  )
  const seen: string[] = []
  let after: string | null = ''
  for (let page = 0; after !== null; page++) {
    const query: string = `?scope=cluster&limit=7${after === '' ? '' : `&after=${after}`}`
    const { body, next, total } = await ask(page % 2 === 0 ? here.http : other.http, `/connections${query}`)
    // The connection that leaves was on the first page, and a new one need not appear.
    t.equal(total, page === 0 ? '25' : total)
    seen.push(...(body as { subject: string }[]).map(({ subject }) => subject))
    after = next
    if (page === 0) await open(t, `${other.ws}/a/${rw('late')}`)
  }
  const early = seen.filter((subject) => subject !== 'late')
  t.equal(new Set(early).size, 25)
  t.equal(early.length, 25)
  t.equal(sockets.length, 25)

  t.equal((await list(here.http, '?scope=cluster')).length, 26)
  for (const query of ['?limit=0', '?limit=1001', '?limit=x', '?limit=', '?after=x', '?limit=1&limit=2']) {
    t.equal((await ask(here.http, `/connections${query}`)).status, 400, query)
  }
})

t.test('counts the connections that match, closes them, and logs who did it', async (t) => {
  const { here, other } = await nodes(t)
  const sockets = [
    await open(t, `${here.ws}/a/${rw('ann')}`),
    await open(t, `${other.ws}/a/${rw('ann')}`),
    await open(t, `${other.ws}/b/${rw('ann')}`)
  ]
  const events = await stream(t, `${other.http}/a/${rw('ann')}`)
  const closes = sockets.slice(0, 2).map((socket) => socket.closed())
  const path = '/connections?subject=ann&channel=a&transport=websocket'
  t.same((await ask(here.http, `${path}&dryRun=true`, 'DELETE')).body, { closed: 2 })
  t.equal((await list(here.http, '?scope=cluster')).length, 4)
  t.equal((await ask(here.http, `${path}&dryRun=perhaps`, 'DELETE')).status, 400)
  t.equal((await ask(here.http, '/connections?dryRun=true', 'DELETE')).status, 400)
  t.same((await ask(here.http, path, 'DELETE')).body, { closed: 2 })
  t.same(
    (await Promise.all(closes)).map(({ code }) => code),
    [3000, 3000]
  )
  await until(async () => (await list(here.http, '?scope=cluster')).length === 2)
  t.equal(events.events.length, 0)

  const logged = here.lines.map((line) => JSON.parse(line)).find(({ msg }) => /^the administrator/.test(msg))
  t.match(logged, { subject: 'the operator', count: 2 })
  t.match(logged.msg, /closed 2 connections with subject "ann" and channel "a" and transport "websocket"/)
  const { body } = await ask(here.http, '/events?types=admin')
  t.match(body, [{ type: 'admin', subject: 'the operator', count: 2, text: logged.msg }])
})
