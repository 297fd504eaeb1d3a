import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { hostname } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { PgWebsocketsOptions } from '../../../index.js'
import { run, started } from '../../support/app.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import {
  build,
  type Client,
  LISTEN_CHANNEL,
  notify,
  open,
  query,
  refusal,
  SECRET,
  sqlListener,
  token,
  until,
  withPostgres
} from '../../support/helper.js'

const { database, postgres } = await withPostgres(t)
const CLUSTER_CHANNEL = `pgws_nodes:${LISTEN_CHANNEL}`
const admin = token({ admin: true })
const reader = token({ mode: 'r' })
const rw = token({ mode: 'rw' })

type App = Awaited<ReturnType<typeof build>>

interface Connection {
  id: string
  node: string
  subject: string | null
  channels: string[]
  mode: string
  since: string
  address: string
  bufferedBytes: number
}

interface Node {
  id: string
  hostname: string
  pid: number
  version: string
  startedAt: string
  lastSeen: string
  connections: number
  self: boolean
}

/** A request of an administrator. */
async function ask<Body>(http: string, path: string, init: RequestInit = {}, bearer = admin) {
  const response = await fetch(http + path, {
    ...init,
    headers: { authorization: `Bearer ${bearer}`, ...init.headers }
  })
  const missing = response.headers.get('x-pgws-missing-nodes')
  const total = response.headers.get('x-pgws-total')
  return { status: response.status, missing, total, body: (await response.json()) as Body }
}

const nodesOf = async ({ http }: { http: string }) => (await ask<Node[]>(http, '/nodes')).body

/** Waits until each node knows this number of nodes. */
async function acquainted(apps: { http: string }[], count = apps.length): Promise<void> {
  for (const app of apps) {
    await until(async () => {
      const nodes = await nodesOf(app)
      return Array.isArray(nodes) && nodes.length === count
    })
  }
}

/** Several nodes of one cluster. */
async function nodes(t: Test, count: number, options: Partial<PgWebsocketsOptions> = {}) {
  const dbUri = options.dbUri ?? (await database())
  const apps: App[] = []
  for (let i = 0; i < count; i++) apps.push(await build(t, { dbUri, ...options }))
  await acquainted(apps)
  return { apps, dbUri }
}

/** A node in a process of its own. */
async function processNode(t: Test, dbUri: string, environment: Record<string, string> = {}) {
  const variables = { PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET, PGWS_HOST: '127.0.0.1' }
  return started(await run(t, { ...variables, ...environment }))
}

/** A client of server-sent events. */
async function stream(t: Test, url: string) {
  const sent = request(url, { headers: { accept: 'text/event-stream' }, agent: false }).end()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  t.teardown(() => response.destroy())
  t.equal(response.statusCode, 200)
  const result = { text: '', ended: false }
  response.setEncoding('utf8')
  response.on('error', () => {})
  response.on('data', (chunk) => {
    result.text += chunk
  })
  response.on('close', () => {
    result.ended = true
  })
  return result
}

const payloadsOf = ({ messages }: Client) => messages.map((text) => JSON.parse(text).payload)

t.test('nodes discover each other, and one that closes is removed at once', async (t) => {
  // The timeout does not matter here.
  const { apps, dbUri } = await nodes(t, 2, { nodeTimeout: 3_600_000 })
  apps.push(await build(t, { dbUri, nodeTimeout: 3_600_000 }))
  await acquainted(apps)
  const [first, second, third] = apps as [App, App, App]
  const seen = await nodesOf(first)
  t.equal(new Set(seen.map(({ id }) => id)).size, 3)
  for (const node of seen) {
    t.match(node, {
      id: /^[0-9a-f]{16}$/,
      hostname: hostname(),
      pid: process.pid,
      version: /^\d+\.\d+\.\d+/,
      startedAt: /^\d{4}-.*Z$/,
      lastSeen: /^\d{4}-.*Z$/,
      connections: 0
    })
  }
  const selves = await Promise.all(apps.map(async (app) => (await nodesOf(app)).filter(({ self }) => self)))
  t.same(
    selves.map((own) => own.length),
    [1, 1, 1]
  )
  t.equal(new Set(selves.map(([own]) => own!.id)).size, 3)
  t.same(
    first.fastify.pgws
      .nodes()
      .map(({ id }) => id)
      .sort(),
    seen.map(({ id }) => id).sort()
  )
  await third.fastify.close()
  await acquainted([first, second])

  const others = await build(t, { dbUri, listenChannel: 'another' })
  t.equal((await nodesOf(others)).length, 1)
  t.equal((await nodesOf(first)).length, 2)
})

t.test('uses the timeout that each node announces, although another node has a shorter one', async (t) => {
  const dbUri = await database()
  const slow = await build(t, { dbUri, nodeTimeout: 3_600_000 })
  const quick = await build(t, { dbUri, nodeTimeout: 200 })
  await acquainted([slow, quick])
  const { payloads } = await sqlListener(t, dbUri, CLUSTER_CHANNEL)
  // Several timeouts of the quick node, in which the slow one sends nothing.
  const beats = () =>
    payloads.map((text) => JSON.parse(text.split('\n')[0]!)).filter(({ type }) => type === 'heartbeat')
  await until(() => beats().length > 12)
  t.ok(beats().every(({ node }) => node.timeout === 200))
  t.equal((await nodesOf(quick)).length, 2)
  await quick.fastify.close()
  await acquainted([slow], 1)
})

t.test('accepts a listen channel of any length and alphabet', async (t) => {
  for (const listenChannel of ['x'.repeat(63), 'é "quoted"']) {
    const { apps } = await nodes(t, 2, { listenChannel })
    const client = await open(t, `${apps[0]!.ws}/a/${reader}`)
    const { delivered } = await apps[1]!.fastify.pgws.publish('a', 'x', {}, { confirm: true })
    t.equal(delivered, 1)
    await client.received(1)
  }
})

t.test('only an administrator may ask', async (t) => {
  const { apps } = await nodes(t, 1)
  const { http } = apps[0]!
  const requests: [method: string, path: string][] = [
    ['GET', '/nodes'],
    ['GET', '/connections'],
    ['GET', '/channels?scope=cluster'],
    ['DELETE', '/connections?subject=a'],
    ['DELETE', '/connections/0123456789abcdef-1']
  ]
  for (const [method, path] of requests) {
    t.equal((await fetch(http + path, { method })).status, 401, path)
    t.equal((await ask(http, path, { method }, rw)).status, 403, path)
  }
})

t.test('GET /channels?scope=cluster adds up the channels of all nodes', async (t) => {
  const { apps } = await nodes(t, 3)
  const [first, second, third] = apps as [App, App, App]
  await open(t, `${first.ws}/everywhere/${rw}`)
  await open(t, `${second.ws}/everywhere/${reader}`)
  await open(t, `${third.ws}/everywhere/${token({ mode: 'w' })}`)
  await open(t, `${third.ws}/${encodeURIComponent('només aquí 🎈')}/${reader}`)
  const expected = [
    { channel: 'everywhere', connections: 3, readers: 2, writers: 2 },
    { channel: 'només aquí 🎈', connections: 1, readers: 1, writers: 0 }
  ]
  const sorted = (list: { channel: string }[]) => list.sort((a, b) => a.channel.localeCompare(b.channel))
  for (const { http, fastify } of apps) {
    t.match(sorted((await ask<[]>(http, '/channels?scope=cluster')).body), expected)
    t.same(sorted(await fastify.pgws.channels({ scope: 'cluster' })), expected)
  }
  t.match((await ask(first.http, '/channels?scope=local')).body, [
    { channel: 'everywhere', connections: 1, readers: 1, writers: 1 }
  ])
  t.equal((await ask(first.http, '/channels?scope=everything')).status, 400)
})

t.test('nodes that are asked for some channels send no others', async (t) => {
  const { apps, dbUri } = await nodes(t, 2)
  const [first, second] = apps as [App, App]
  for (const { ws } of apps) {
    for (const channel of ['news', 'news of today', 'weather']) await open(t, `${ws}/${channel}/${reader}`)
  }
  const { payloads } = await sqlListener(t, dbUri, CLUSTER_CHANNEL)
  const sent = () => payloads.splice(0).filter((payload) => payload.includes('"type":"answer"'))
  const namesIn = (payload: string) =>
    JSON.parse(payload.slice(payload.indexOf('\n')))
      .map(({ channel }: { channel: string }) => channel)
      .sort()
  const cases = [
    { query: '', names: ['news', 'news of today', 'weather'] },
    { query: '&search=ew', names: ['news', 'news of today'] },
    { query: '&channel=news', names: ['news'] },
    { query: '&channel=sports', names: [] }
  ]
  for (const { query, names } of cases) {
    const { body, total } = await ask<{ channel: string; readers: number }[]>(
      first.http,
      `/channels?scope=cluster&limit=2${query}`
    )
    t.same(
      body.map(({ channel, readers }) => [channel, readers]),
      names.slice(0, 2).map((name) => [name, 2])
    )
    t.equal(total, String(names.length))
    await until(() => payloads.some((payload) => payload.includes('"type":"answer"')))
    const answers = sent()
    t.equal(answers.length, 1)
    t.ok(answers[0]!.includes(second.fastify.pgws.nodes()[0]!.id), 'the other node has sent it')
    t.same(namesIn(answers[0]!), names)
  }
})

t.test('GET /connections returns sockets and event streams of this node or of all', async (t) => {
  const { apps } = await nodes(t, 2)
  const [first, second] = apps as [App, App]
  const begun = Date.now()
  const alice = token({ mode: 'rw', sub: 'alice', channels: ['a', 'b'] })
  await open(t, `${first.ws}/${alice}`)
  await open(t, `${second.ws}/a/${token({ mode: 'w', sub: 'bob' })}`)
  await stream(t, `${second.http}/b/${token({ mode: 'rw', sub: 'alice' })}`)
  await open(t, `${second.ws}/c/${token({ mode: 'r' })}`)
  const list = async (search = '', { http } = first) =>
    (await ask<Connection[]>(http, `/connections${search}`)).body
  t.equal((await list()).length, 1)
  t.equal((await list('?scope=local', second)).length, 3)
  const all = await list('?scope=cluster')
  t.equal(all.length, 4)
  const own = await nodesOf(first)
  const node = own.find(({ self }) => self)!.id
  const [one] = await list('?subject=alice')
  t.match(one, {
    id: new RegExp(`^${node}-\\d+$`),
    node,
    subject: 'alice',
    channels: ['a', 'b'],
    mode: 'rw',
    address: '127.0.0.1',
    bufferedBytes: 0
  })
  t.ok(Date.parse(one!.since) >= begun && Date.parse(one!.since) <= Date.now(), 'between its opening and now')
  const modes = async (search: string) =>
    (await list(search)).map(({ mode, subject }) => `${subject} ${mode}`).sort()
  t.same(await modes('?scope=cluster&subject=alice'), ['alice r', 'alice rw'])
  t.same(await modes('?scope=cluster&channel=a'), ['alice rw', 'bob w'])
  t.same(await modes('?scope=cluster&channel=b&subject=alice'), ['alice r', 'alice rw'])
  t.same(await modes('?scope=cluster&channel=c'), ['null r'])
  t.same(await modes('?scope=cluster&channel=nobody'), [])
  t.same(await first.fastify.pgws.connections({ scope: 'cluster' }), await list('?scope=cluster'))
  for (const bad of ['?scope=all', '?subject=a&subject=b', '?scope=local&scope=cluster']) {
    t.equal((await ask(first.http, `/connections${bad}`)).status, 400, bad)
  }
})

t.test('returns answers of any size completely', async (t) => {
  const { apps } = await nodes(t, 2)
  const [first, second] = apps as [App, App]
  const channels = Array.from({ length: 60 }, (_, i) => `${i} ${'é'.repeat(60)}`)
  const many = token({ mode: 'r', channels })
  await Promise.all(Array.from({ length: 50 }, () => open(t, `${second.ws}/${many}`)))
  // No node is waited for longer than 2 s, which a busy machine may need.
  let body: Connection[] = []
  await until(async () => {
    const answer = await ask<Connection[]>(first.http, '/connections?scope=cluster')
    body = answer.body
    return answer.missing === null
  })
  t.equal(body.length, 50)
  for (const connection of body) t.same(connection.channels, channels)
  t.equal((await ask<[]>(first.http, '/channels?scope=cluster')).body.length, 60)
})

t.test('DELETE /connections closes connections on any node', async (t) => {
  const { apps } = await nodes(t, 3)
  const [first, second, third] = apps as [App, App, App]
  const user = (sub: string) => token({ mode: 'r', sub })
  const remove = (path: string, init: RequestInit = {}) =>
    ask<{ closed?: number; code?: string }>(first.http, `/connections${path}`, { method: 'DELETE', ...init })
  const idOf = async (subject: string) => {
    const { body } = await ask<Connection[]>(first.http, `/connections?scope=cluster&subject=${subject}`)
    return body[0]!.id
  }

  const bystander = await open(t, `${second.ws}/a/${user('carol')}`)
  for (const { ws } of [first, second]) {
    const client = await open(t, `${ws}/a/${user('alice')}`)
    const closed = client.closed()
    const id = await idOf('alice')
    t.match(await remove(`/${id}`), { status: 200, body: { closed: 1 } })
    t.same(await closed, { code: 3000, reason: 'disconnected' })
    t.match(await remove(`/${id}`), { status: 404, body: { code: 'FST_PGWS_NO_SUCH_CONNECTION' } })
  }

  const clients = await Promise.all(apps.map(({ ws }) => open(t, `${ws}/a/${user('bob')}`)))
  const events = await stream(t, `${third.http}/a/${user('bob')}`)
  const closes = clients.map((client) => client.closed())
  const reason = 'é'.repeat(61)
  t.match(await remove(`?subject=bob&channel=a&code=4999&reason=${encodeURIComponent(reason)}`), {
    status: 200,
    body: { closed: 4 }
  })
  for (const closed of await Promise.all(closes)) t.same(closed, { code: 4999, reason })
  await until(() => events.ended)
  t.match(events.text, `event: Disconnected\ndata: ${JSON.stringify({ code: 4999, reason })}\n\n`)
  t.match(await remove('?subject=bob'), { status: 200, body: { closed: 0 } })

  const json = { body: '{"code":1000,"reason":""}', headers: { 'content-type': 'application/json' } }
  const dave = await open(t, `${third.ws}/b/${user('dave')}`)
  const closed = dave.closed()
  t.match(await remove('?channel=b', json), { body: { closed: 1 } })
  t.same(await closed, { code: 1000, reason: '' })

  const erin = await open(t, `${third.ws}/b/${user('erin')}`)
  const erinClosed = erin.closed()
  t.same(await second.fastify.pgws.disconnect({ subject: 'erin' }, { reason: 'bye' }), {
    closed: 1,
    missing: []
  })
  t.same(await erinClosed, { code: 3000, reason: 'bye' })

  const crowd = await Promise.all(
    Array.from({ length: 250 }, () => open(t, `${second.ws}/crowd/${user('frank')}`))
  )
  const crowdClosed = crowd.map((member) => member.closed())
  t.match(await remove('?channel=crowd'), { status: 200, body: { closed: 250 } })
  for (const { code } of await Promise.all(crowdClosed)) t.equal(code, 3000)

  for (const bad of ['', '?code=3000', '?subject=a&subject=b', '?subject=carol&code=1001']) {
    t.equal((await remove(bad)).status, 400, bad)
  }
  for (const code of ['2999', '5000', '1005', '3000.5', 'x', '']) {
    t.equal((await remove(`?subject=carol&code=${code}`)).status, 400, code)
  }
  t.equal((await remove(`?subject=carol&reason=${'é'.repeat(62)}`)).status, 400)
  for (const id of ['nonsense', '0123456789abcdef-1', `${await idOf('carol')}9`]) {
    t.equal((await remove(`/${id}`)).status, 404, id)
  }
  t.equal(bystander.webSocket.readyState, bystander.webSocket.OPEN)
})

t.test('a closed client is no longer listed, even if it does not answer the close', async (t) => {
  const { apps } = await nodes(t, 1)
  const { http, ws, fastify } = apps[0]!
  const client = await open(t, `${ws}/a/${token({ mode: 'r', sub: 'alice' })}`)
  client.webSocket.pause()
  t.match(await ask(http, '/connections?subject=alice', { method: 'DELETE' }), { body: { closed: 1 } })
  t.same(await fastify.pgws.connections({ subject: 'alice' }), [])
  t.match(await ask(http, '/connections?subject=alice', { method: 'DELETE' }), { body: { closed: 0 } })
})

t.test('publish with confirm returns to how many sockets it was written, on all nodes', async (t) => {
  const { apps } = await nodes(t, 3, { rawChannels: 'raw' })
  const [first, second, third] = apps as [App, App, App]
  const post = (body: unknown, search = '', { http } = first) =>
    ask<Record<string, unknown>>(
      http,
      `/publish${search}`,
      { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } },
      rw
    )
  const clients = [
    await open(t, `${first.ws}/a/${reader}`),
    await open(t, `${second.ws}/a/${reader}`),
    await open(t, `${second.ws}/${token({ mode: 'r', channels: ['a', 'b'] })}`)
  ]
  await open(t, `${third.ws}/a/${token({ mode: 'w' })}`)
  const events = await stream(t, `${third.http}/a/${reader}`)
  const raw = await open(t, `${third.ws}/raw/${reader}`)
  first.fastify.pgws.subscribe('a', () => {})

  const whole = { status: 200, body: { delivered: 4, nodes: 3 } }
  for (const app of apps) {
    const { status, body } = await post({ channel: 'a', payload: 'x', confirm: true }, '', app)
    t.same({ status, body }, whole)
  }
  t.match(await post({ channel: 'a', payload: 'x' }, '?confirm=true'), whole)
  t.match(await post({ channel: 'nobody', payload: 'x', confirm: true }), {
    body: { delivered: 0, nodes: 3 }
  })
  const list = [
    { channels: ['a', 'b'], payload: 1 },
    { channel: 'raw', payload: 'as it is' },
    // PostgreSQL folds it into the previous one.
    { channel: 'raw', payload: 'as it is' }
  ]
  t.match(await post(list, '?confirm=true'), { status: 200, body: { delivered: 6, nodes: 3 } })
  t.same(await first.fastify.pgws.publish('a', 'last', {}, { confirm: true }), {
    delivered: 4,
    nodes: 3,
    missing: []
  })
  t.match(await post({ channel: 'a', payload: 'x', confirm: false }), { status: 202 })
  for (const [body, search] of [
    [{ channel: 'a', payload: 'x', confirm: 'true' }, ''],
    [{ channel: 'a', payload: 'x' }, '?confirm=1'],
    [[{ channel: 'a', payload: 'x', confirm: true }], '']
  ] as const) {
    t.equal((await post(body, search)).status, 400)
  }
  const counts = await Promise.all(clients.map((client, i) => client.received(i === 2 ? 8 : 7)))
  t.same(
    counts.map(({ length }) => length),
    [7, 7, 8]
  )
  t.same(await raw.received(1), ['as it is'])
  await until(() => events.text.split('data: ').length === 8)
})

t.test('confirmed publications count only their own messages, whatever else is published', async (t) => {
  const { apps, dbUri } = await nodes(t, 2, { migrate: true, rawChannels: 'raw' })
  const [first, second] = apps as [App, App]
  await query(dbUri, "select pgws.retain('durable', '1 hour')")
  await until(async () => {
    await first.fastify.pgws.publish('durable', 'probe')
    const { rows } = await query(dbUri, 'select count(*)::int as n from pgws.messages')
    return rows[0].n > 0
  })
  const channels = ['plain', 'durable', 'large', 'raw']
  const token4 = token({ mode: 'r', channels })
  for (const { ws } of apps) await open(t, `${ws}/${token4}`)
  await open(t, `${second.ws}/durable/${reader}`)
  // Larger than a notification: its row is read later, and the count waits for it.
  const large = 'x'.repeat(20_000)
  const batch = [
    { channels: ['raw'], payload: 'raw' },
    { channels: ['large'], payload: large },
    { channels: ['plain', 'durable'], payload: 'p' },
    { channels: ['raw'], payload: 'raw, behind' }
  ]
  let noise = 0
  const noisy = setInterval(() => {
    first.fastify.pgws.publish('plain', noise++).catch(() => {})
    second.fastify.pgws.publish('large', `${noise++} ${large}`).catch(() => {})
    first.fastify.pgws.publish('durable', noise++).catch(() => {})
  }, 2)
  t.teardown(() => clearInterval(noisy))
  for (let round = 0; round < 10; round++) {
    const results = await Promise.all(
      apps.flatMap(({ fastify: { pgws } }) => [
        pgws.publishAll(
          batch.map((message) => ({ ...message, payload: `${message.payload} ${round}` })),
          {},
          { confirm: true }
        ),
        pgws.publish('durable', `d ${round}`, {}, { confirm: true }),
        pgws.publish('nobody', `n ${round}`, {}, { confirm: true })
      ])
    )
    for (const [index, result] of results.entries()) {
      t.same(result, { delivered: [11, 3, 0][index % 3], nodes: 2, missing: [] })
    }
  }
  clearInterval(noisy)
  t.ok(noise > 0)

  // A durable message that is sent again with its key is skipped, and reaches nobody.
  const send = async () => {
    const { body } = await ask<object>(
      second.http,
      '/publish',
      {
        method: 'POST',
        body: JSON.stringify({ channel: 'durable', payload: 'once', confirm: true }),
        headers: { 'content-type': 'application/json', 'idempotency-key': 'k' }
      },
      rw
    )
    return body
  }
  t.same(await send(), { delivered: 3, nodes: 2 })
  t.same(await send(), { delivered: 0, nodes: 2 })
})

t.test('three nodes under load deliver each message once; a killed node affects no other', async (t) => {
  const dbUri = await database()
  const environment = { PGWS_NODE_TIMEOUT: '2000', PGWS_CHECK_LISTENER_INTERVAL: '5000' }
  const apps = await Promise.all([1, 2, 3].map(() => processNode(t, dbUri, environment)))
  await acquainted(apps)
  const [first, second, victim] = apps as [(typeof apps)[0], (typeof apps)[0], (typeof apps)[0]]
  const clients: Client[] = []
  for (const { ws } of [first, second]) {
    for (let i = 0; i < 10; i++) clients.push(await open(t, `${ws}/load/${rw}`))
  }
  const doomed = await Promise.all(Array.from({ length: 10 }, () => open(t, `${victim.ws}/load/${rw}`)))
  const MESSAGES = 400
  const sent = new Set<string>()
  const say = (client: Client, text: string) => {
    sent.add(text)
    client.send(text)
  }
  for (let i = 0; i < MESSAGES; i++) {
    for (const [n, client] of [clients[0]!, clients[10]!].entries()) say(client, `${n}: ${i}`)
    if (i % 20 === 0) await clients[0]!.received(sent.size)
    if (i === MESSAGES / 2) {
      await doomed[0]!.received(sent.size / 2)
      victim.child.kill('SIGKILL')
      await once(victim.child, 'exit')
    }
  }
  await until(() => clients.every(({ messages }) => messages.length >= sent.size))
  for (const client of clients) {
    t.equal(client.messages.length, sent.size)
    t.same(new Set(payloadsOf(client)), sent)
    t.same(client.messages, clients[0]!.messages, 'in the same order')
    t.equal(client.webSocket.readyState, client.webSocket.OPEN)
  }
  for (const { messages } of doomed) t.equal(new Set(messages).size, messages.length)

  await acquainted([first, second], 2)
  const confirmed = await ask<object>(
    first.http,
    '/publish',
    {
      method: 'POST',
      body: '{"channel":"load","payload":"end","confirm":true}',
      headers: { 'content-type': 'application/json' }
    },
    rw
  )
  t.same(confirmed.body, { delivered: 20, nodes: 2 })
  // It returns as a different node.
  const fresh = await processNode(t, dbUri, environment)
  await acquainted([first, second, fresh], 3)
})

t.test('a node that does not answer is named, and not waited for forever', async (t) => {
  // It counts as alive for the duration of the test.
  const { apps, dbUri } = await nodes(t, 1, { nodeTimeout: 3_600_000 })
  const [{ http, ws, fastify }] = apps as [App]
  const stopped = await processNode(t, dbUri, { PGWS_NODE_TIMEOUT: '3600000' })
  await acquainted([{ http }, stopped], 2)
  await open(t, `${ws}/a/${token({ mode: 'rw', sub: 'alice' })}`)
  await open(t, `${stopped.ws}/a/${token({ mode: 'rw', sub: 'alice' })}`)
  const all = await fastify.pgws.connections({ scope: 'cluster' })
  const id = fastify.pgws.nodes().find(({ self }) => !self)!.id
  const other = all.find(({ node }) => node === id)!
  stopped.child.kill('SIGSTOP')
  t.teardown(() => stopped.child.kill('SIGCONT'))
  const [channels, connections, delivery, one] = await Promise.all([
    ask<[]>(http, '/channels?scope=cluster'),
    ask<[]>(http, '/connections?scope=cluster'),
    fastify.pgws.publish('a', 'x', {}, { confirm: true }),
    ask(http, `/connections/${other.id}`, { method: 'DELETE' })
  ])
  t.match(channels, { status: 200, missing: id })
  t.equal(channels.body.length, 1)
  t.match(connections, { status: 200, missing: id })
  t.equal(connections.body.length, 1)
  t.same(delivery, { delivered: 1, nodes: 1, missing: [id] })
  t.match(one, { status: 503, body: { code: 'FST_PGWS_NODES_UNAVAILABLE' } })
  t.match(await ask(http, '/connections?subject=alice', { method: 'DELETE' }), {
    status: 200,
    body: { closed: 1, missing: [id] }
  })
})

t.test('without the database nodes cannot be asked; later all discover each other again', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const options = { checkListenerInterval: 300, nodeTimeout: 1000 }
  const near = await build(t, { dbUri, ...options })
  // Its pool takes another route: it could send, and must not, because it does not receive.
  const far = await build(t, { dbUri, listenerUri: proxy.uri(dbUri), ...options })
  await acquainted([near, far])
  const client = await open(t, `${far.ws}/a/${token({ mode: 'r', sub: 'alice' })}`)
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !far.fastify.pgws.listenerState.up)
  for (const [method, path] of [
    ['GET', '/nodes'],
    ['GET', '/channels?scope=cluster'],
    ['GET', '/connections?scope=cluster'],
    ['DELETE', '/connections?subject=alice']
  ] as const) {
    const { status, body } = await ask<{ code: string }>(far.http, path, { method })
    t.equal(status, 503, path)
    t.equal(body.code, 'FST_PGWS_NODES_UNAVAILABLE')
  }
  await t.rejects(far.fastify.pgws.publish('a', 'x', {}, { confirm: true }), {
    code: 'FST_PGWS_DATABASE_UNAVAILABLE'
  })
  t.equal((await ask<[]>(far.http, '/connections')).body.length, 1)
  t.equal(client.webSocket.readyState, client.webSocket.OPEN)
  await acquainted([near], 1)
  proxy.mode = 'pass'
  await acquainted([near, far])
  t.same(await near.fastify.pgws.publish('a', 'x', {}, { confirm: true }), {
    delivered: 1,
    nodes: 2,
    missing: []
  })
})

t.test('ignores other notifications on the cluster channel', async (t) => {
  const { apps, dbUri } = await nodes(t, 2)
  const [first, second] = apps as [App, App]
  const client = await open(t, `${first.ws}/a/${token({ mode: 'r', sub: 'alice' })}`)
  const { payloads } = await sqlListener(t, dbUri, CLUSTER_CHANNEL)
  const from = 'f'.repeat(16)
  const node = { hostname: 'h', pid: 1, version: '1', startedAt: 1, connections: 1, timeout: 1 }
  const question = { pgws: 1, from, type: 'question', id: '1' }
  for (const payload of [
    '',
    'text',
    '{',
    'null',
    '5',
    '[]',
    '{}',
    { pgws: 1 },
    { pgws: 2, from, type: 'hello', node },
    { pgws: 1, from: 'short', type: 'hello', node },
    { pgws: 1, from, type: 'unknown' },
    { pgws: 1, from, type: 'hello' },
    { pgws: 1, from, type: 'hello', node: { ...node, pid: 'x' } },
    { pgws: 1, from, type: 'hello', node: { ...node, startedAt: 1e16 } },
    { pgws: 1, from, type: 'heartbeat', node: { ...node, hostname: 'x'.repeat(1000) } },
    { ...question, question: 'unknown', args: {} },
    { ...question, question: 'connections', args: null },
    { ...question, question: 'connections', args: { subject: 5 } },
    { ...question, question: 'disconnect', args: {} },
    { ...question, question: 'disconnect', args: { subject: 'alice', code: 1006 } },
    { ...question, question: 'disconnect', args: { subject: 'alice', code: 3000, reason: 5 } },
    { ...question, question: 'disconnect', args: { subject: 'alice' }, to: 5 },
    { pgws: 1, from, type: 'answer', id: '1', to: from, part: -1, last: true },
    { pgws: 1, from, type: 'begin', id: 5 },
    { pgws: 1, from, type: 'end', id: 'never begun' },
    { pgws: 1, from, type: 'begin', id: 'never ended' }
  ]) {
    await notify(dbUri, typeof payload === 'string' ? payload : JSON.stringify(payload), CLUSTER_CHANNEL)
  }
  const delivery = { delivered: 1, nodes: 2, missing: [] }
  t.same(await second.fastify.pgws.publish('a', 'x', {}, { confirm: true }), delivery)
  t.equal((await nodesOf(first)).length, 2)
  t.equal(client.webSocket.readyState, client.webSocket.OPEN)
  // An answer of the wrong shape is ignored.
  const asked = second.fastify.pgws.channels({ scope: 'cluster', onMissing: (ids) => missing.push(...ids) })
  const missing: string[] = []
  await until(() => payloads.some((text) => text.includes('"question":"channels"')))
  const { id, from: asker } = JSON.parse(payloads.find((text) => text.includes('"question":"channels"'))!)
  const answer = { pgws: 1, from, type: 'answer', id, to: asker, part: 0, last: true }
  await notify(dbUri, `${JSON.stringify(answer)}\n[{"channel":5}]`, CLUSTER_CHANNEL)
  await asked
  t.ok(missing.every((name) => name === from))
})

t.test('no client may join the cluster channel', async (t) => {
  const { apps, dbUri } = await nodes(t, 1, { rawChannels: '**' })
  const { ws } = apps[0]!
  const { payloads } = await sqlListener(t, dbUri, CLUSTER_CHANNEL)
  const before = payloads.length
  const client = await open(t, `${ws}/${encodeURIComponent(CLUSTER_CHANNEL)}/${rw}`)
  client.send('hello')
  t.match(JSON.parse((await client.received(1))[0]!), { channel: CLUSTER_CHANNEL, payload: 'hello' })
  t.notOk(payloads.slice(before).includes('hello'))
})

t.test('sockets may still use the names of the newer routes as channels', async (t) => {
  const { apps } = await nodes(t, 1)
  const { ws, fastify } = apps[0]!
  for (const name of ['nodes', 'connections']) {
    const client = await open(t, `${ws}/${name}/${reader}`)
    await fastify.pgws.publish(name, 'x')
    await client.received(1)
    t.equal((await refusal(t, `${ws}/${name}/nonsense`)).status, 401)
  }
})
