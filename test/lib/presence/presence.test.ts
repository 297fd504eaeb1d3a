import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { PgWebsocketsOptions } from '../../../index.js'
import { wordOf } from '../../../lib/presence/channel-line.js'
import { run, started } from '../../support/app.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import {
  build,
  type Client,
  DEADLINE,
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
const reader = token({ mode: 'r', sub: 'reader' })

type App = Awaited<ReturnType<typeof build>>

interface Member {
  client: string
  user: string
  info?: unknown
}

interface Answer {
  clients: Member[]
  count: number
  users: number
}

const as = (user: string, mode = 'r') => token({ mode, sub: user })

async function ask(http: string, channel: string, bearer = reader) {
  const response = await fetch(`${http}/channels/${encodeURIComponent(channel)}/presence`, {
    headers: { authorization: `Bearer ${bearer}` }
  })
  return { status: response.status, body: (await response.json()) as Answer & { code?: string } }
}

const usersOf = (clients: Member[]) => clients.map(({ user }) => user).sort()

/** Waits until each node says that these users, and no others, are in a channel. */
async function present(apps: { http: string }[], channel: string, users: string[], timeout = DEADLINE) {
  const wanted = [...users].sort().join()
  for (const { http } of apps) {
    await until(async () => usersOf((await ask(http, channel)).body.clients).join() === wanted, timeout)
  }
}

async function nodes(t: Test, count: number, options: Partial<PgWebsocketsOptions> = {}) {
  const dbUri = options.dbUri ?? (await database())
  const apps: App[] = []
  for (let i = 0; i < count; i++) apps.push(await build(t, { dbUri, presenceChannels: 'room:*', ...options }))
  for (const app of apps) await until(() => app.fastify.pgws.nodes().length === count)
  return { apps, dbUri }
}

/** The list that a client keeps from its presence events. Throws if the events contradict each other. */
function keep(messages: string[], channel: string): Map<string, string> {
  let list: Map<string, string> | undefined
  for (const text of messages) {
    const { event, channel: of, payload } = JSON.parse(text)
    if (of !== channel) continue
    if (event === 'Presence') {
      if (list !== undefined) throw new Error('a second list')
      list = new Map(payload.clients.map(({ client, user }: Member) => [client, user]))
      if (list.size !== payload.clients.length) throw new Error('twice in the list')
    } else if (event === 'Join') {
      if (list!.has(payload.client)) throw new Error(`${payload.client} has joined twice`)
      list!.set(payload.client, payload.user)
    } else if (event === 'Leave') {
      if (!list!.delete(payload.client)) throw new Error(`${payload.client} has left, and was not there`)
    }
  }
  return list ?? new Map()
}

t.test('GET /channels/:channel/presence lists the members of all nodes, on each node', async (t) => {
  const { apps } = await nodes(t, 2)
  const [first, second] = apps as [App, App]
  const alice = await open(t, `${first.ws}/room:1/${as('alice')}`)
  const bob = await open(t, `${second.ws}/room:1/${as('bob', 'w')}`)
  await open(t, `${second.ws}/room:1/${as('bob', 'rw')}`)
  await open(t, `${second.ws}/room:1/${token({ mode: 'r' })}`)
  await open(t, `${second.ws}/other/${as('carol')}`)
  const both = await open(
    t,
    `${first.ws}/${token({ mode: 'r', sub: 'dave', channels: ['room:1', 'room:2'] })}`
  )
  await present(apps, 'room:1', ['', 'alice', 'bob', 'bob', 'dave'])
  await present(apps, 'room:2', ['dave'])
  const { body } = await ask(first.http, 'room:1')
  t.equal(body.count, 5)
  t.equal(body.users, 4)
  const known = await first.fastify.pgws.connections({ channel: 'room:1', scope: 'cluster' })
  t.same(body.clients.map(({ client }) => client).sort(), known.map(({ id }) => id).sort())
  t.match(await first.fastify.pgws.presence('room:1'), { count: 5, users: 4 })
  t.same(await first.fastify.pgws.presence('room:nobody'), { clients: [], count: 0, users: 0 })
  alice.webSocket.close()
  both.webSocket.terminate()
  await bob.webSocket.close()
  await present(apps, 'room:1', ['', 'bob'])
  await present(apps, 'room:2', [])
})

t.test('only a token that may read can ask, and only for presence channels', async (t) => {
  const dbUri = await database()
  await query(
    dbUri,
    `create function yes(channel text, mode text, claims jsonb) returns boolean language sql as $$
      select claims ->> 'sub' <> 'mallory' $$`
  )
  const { http, ws, fastify } = await build(t, {
    dbUri,
    presenceChannels: ['room:*', 'long:**'],
    authorizeFunction: 'public.yes'
  })
  t.equal((await fetch(`${http}/channels/room:1/presence`)).status, 401)
  t.equal((await ask(http, 'room:1', as('x', 'w'))).status, 403)
  t.equal((await ask(http, 'room:1', as('mallory'))).status, 403)
  t.equal((await ask(http, 'room:1', token({ mode: 'r', sub: 'x', channel: 'room:2' }))).status, 403)
  t.match(await ask(http, 'other'), { status: 404, body: { code: 'FST_PGWS_NO_PRESENCE' } })
  await t.rejects(fastify.pgws.presence('other'), { code: 'FST_PGWS_NO_PRESENCE' })
  const refused = await refusal(t, `${ws}/other/${reader}?presence=true`)
  t.equal(refused.status, 404)
  t.match(refused.answer, /PGWS_PRESENCE_CHANNELS/)
  // Names of any length, with slashes.
  const long = `long:${'x'.repeat(500)}/presence`
  await open(t, `${ws}/${encodeURIComponent(long)}/${as('alice')}`)
  t.match(await ask(http, long), { status: 200, body: { count: 1 } })
  for (const path of ['presence', 'room:1/constructor', '/presence']) {
    const response = await fetch(`${http}/channels/${path}`, {
      headers: { authorization: `Bearer ${reader}` }
    })
    t.equal(response.status, 404, path)
  }
})

t.test('with ?presence=true a client receives the members, joins and leaves', async (t) => {
  const { apps } = await nodes(t, 2)
  const [first, second] = apps as [App, App]
  await open(t, `${second.ws}/room:1/${as('alice')}`)
  // The first client of a channel on a node may be told later of members elsewhere.
  const before = await open(t, `${first.ws}/room:1/${as('before')}`)
  await present(apps, 'room:1', ['alice', 'before'])
  const claims = { mode: 'r', sub: 'bob', channels: ['room:1', 'other'] }
  const client = await open(t, `${first.ws}/${token(claims)}?presence=true`)
  const [list] = (await client.received(1)).map((text) => JSON.parse(text))
  t.match(list, { event: 'Presence', channel: 'room:1' })
  t.same(usersOf(list.payload.clients), ['alice', 'before', 'bob'])
  const [own] = await first.fastify.pgws.connections({ subject: 'bob' })
  t.ok(list.payload.clients.some(({ client }: Member) => client === own!.id))
  t.equal(list.payload.you, own!.id)

  const near = await open(t, `${first.ws}/room:1/${as('carol')}`)
  await client.received(2)
  const far = await open(t, `${second.ws}/room:1/${as('dave', 'w')}`)
  await client.received(3)
  near.webSocket.close()
  await client.received(4)
  far.webSocket.close()
  await client.received(5)
  const events = client.messages.slice(1).map((text) => JSON.parse(text))
  t.match(events, [
    { event: 'Join', channel: 'room:1', payload: { user: 'carol' } },
    { event: 'Join', channel: 'room:1', payload: { user: 'dave' } },
    { event: 'Leave', channel: 'room:1', payload: { user: 'carol' } },
    { event: 'Leave', channel: 'room:1', payload: { user: 'dave' } }
  ])
  t.same(Object.keys(events[0].payload).sort(), ['client', 'user'])
  t.equal(events[0].payload.client, events[2].payload.client)
  // Clients without ?presence=true receive nothing.
  t.same(near.messages, [])
  t.same(before.messages, [])
  // The server's own channels are not shown.
  t.same(
    first.fastify.pgws
      .channels()
      .map(({ channel }) => channel)
      .sort(),
    ['other', 'room:1']
  )
})

t.test(
  'event streams are members and receive presence events; clients that may only write are not',
  async (t) => {
    const { apps } = await nodes(t, 1)
    const { port, ws } = apps[0]!
    const call = request({
      port,
      host: '127.0.0.1',
      path: `/room:1/${as('alice')}?presence=true`,
      headers: { accept: 'text/event-stream' }
    })
    call.end()
    const [response] = (await once(call, 'response')) as [IncomingMessage]
    let text = ''
    response.on('data', (chunk) => (text += chunk))
    const writer = await open(t, `${ws}/room:1/${as('bob', 'w')}?presence=true`)
    await until(() => text.includes('"Join"'))
    t.match(
      text,
      /^data: \{"pgws":true,"event":"Presence","channel":"room:1","payload":\{"clients":\[\{[^}]*"alice"\}\],"you":"[^"]+"\}\}\n\n/
    )
    response.destroy()
    await present(apps, 'room:1', ['bob'])
    t.same(writer.messages, [])
  }
)

t.test('a client that resumes receives the list, then missed messages, then new ones', async (t) => {
  const { apps, dbUri } = await nodes(t, 1, { migrate: true })
  const { ws } = apps[0]!
  await query(dbUri, `select pgws.retain('room:*', '1 hour')`)
  for (let i = 0; i < 50; i++) await query(dbUri, `select pgws.publish('room:1', '${i}')`)
  const client = await open(t, `${ws}/room:1/${as('alice')}?presence=true&since=earliest`)
  const other = await open(t, `${ws}/room:1/${as('bob')}`)
  await client.received(52)
  const events = client.messages.map((text) => JSON.parse(text).event)
  t.equal(events[0], 'Presence')
  t.equal(events.filter((event) => event === 'Join').length, 1)
  t.equal(keep(client.messages, 'room:1').size, 2)
  other.webSocket.close()
  await until(() => keep(client.messages, 'room:1').size === 1)
})

t.test('envelopeClaims hides the identity of members', async (t) => {
  for (const [envelopeClaims, shown] of [
    ['none', ''],
    ['mode', ''],
    ['mode,sub', 'alice'],
    ['all', 'alice']
  ] as const) {
    const { apps } = await nodes(t, 1, { envelopeClaims })
    const { http, ws } = apps[0]!
    const client = await open(t, `${ws}/room:1/${as('alice')}?presence=true`)
    const [message] = await client.received(1)
    t.equal(JSON.parse(message!).payload.clients[0].user, shown, envelopeClaims)
    t.equal((await ask(http, 'room:1')).body.clients[0]!.user, shown, envelopeClaims)
  }
})

t.test('a node that starts later knows the members; a node that closes removes its own', async (t) => {
  const { apps, dbUri } = await nodes(t, 1)
  const [first] = apps as [App]
  // Some members are in many channels, and some have long names.
  const channels = Array.from({ length: 100 }, (_, i) => `room:${i}`)
  const name = 'ü'.repeat(2000)
  const claims = { mode: 'r', channels }
  await open(t, `${first.ws}/?presence`, {
    headers: { authorization: `Bearer ${token({ ...claims, sub: name })}` }
  })
  await open(t, `${first.ws}/room:7/${as('alice')}`)
  const second = await build(t, { dbUri, presenceChannels: 'room:*' })
  await present([second], 'room:7', ['alice', name])
  await present([second], 'room:99', [name])
  const watching = await open(t, `${second.ws}/room:7/${as('bob')}?presence=true`)
  await present([first], 'room:7', ['alice', 'bob', name])
  await first.fastify.close()
  await present([second], 'room:7', ['bob'], 5000)
  await until(() => keep(watching.messages, 'room:7').size === 1)
  t.equal(watching.messages.filter((text) => text.includes('"Leave"')).length, 2)
})

t.test('the members of a process that was killed leave within the timeout', async (t) => {
  const nodeTimeout = 3000
  const { apps, dbUri } = await nodes(t, 1, { nodeTimeout })
  const [app] = apps as [App]
  const environment = {
    PGWS_DB_URI: dbUri,
    PGWS_JWT_SECRET: SECRET,
    PGWS_PRESENCE_CHANNELS: 'room:*',
    PGWS_NODE_TIMEOUT: String(nodeTimeout)
  }
  const other = await started(await run(t, environment))
  const watching = await open(t, `${app.ws}/room:1/${as('alice')}?presence=true`)
  await open(t, `${other.ws}/room:1/${as('bob')}`)
  await open(t, `${other.ws}/room:1/${as('carol')}`)
  await present([app, other], 'room:1', ['alice', 'bob', 'carol'])
  other.child.kill('SIGKILL')
  await present([app], 'room:1', ['alice'])
  await until(() => keep(watching.messages, 'room:1').size === 1)
  const events = watching.messages.map((text) => JSON.parse(text).event)
  t.same(events, ['Presence', 'Join', 'Join', 'Leave', 'Leave'])
})

t.test('the members of a process that was stopped for a while return', async (t) => {
  const nodeTimeout = 1500
  const { apps, dbUri } = await nodes(t, 1, { nodeTimeout })
  const [app] = apps as [App]
  const environment = {
    PGWS_DB_URI: dbUri,
    PGWS_JWT_SECRET: SECRET,
    PGWS_CHECK_LISTENER_INTERVAL: '500',
    PGWS_PRESENCE_CHANNELS: 'room:*',
    PGWS_NODE_TIMEOUT: String(nodeTimeout)
  }
  const other = await started(await run(t, environment))
  const watching = await open(t, `${app.ws}/room:1/${as('alice')}?presence=true`)
  await open(t, `${other.ws}/room:1/${as('bob')}`)
  await present([app, other], 'room:1', ['alice', 'bob'])
  other.child.kill('SIGSTOP')
  await present([app], 'room:1', ['alice'])
  await open(t, `${app.ws}/room:1/${as('carol')}`)
  other.child.kill('SIGCONT')
  await present([app, other], 'room:1', ['alice', 'bob', 'carol'])
  await until(() => keep(watching.messages, 'room:1').size === 3)
})

t.test('other nodes learn of changes that the database did not accept at first', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const options = { checkListenerInterval: 300, nodeTimeout: 1000, presenceChannels: 'room:*' }
  const near = await build(t, { dbUri, ...options })
  // It always receives notifications, and at times cannot send any.
  const far = await build(t, { dbUri: proxy.uri(dbUri), listenerUri: dbUri, ...options })
  const watching = await open(t, `${near.ws}/room:1/${as('near')}?presence=true`)
  const there = new Map<string, Client>()
  for (let i = 0; i < 60; i++) {
    if (i % 3 === 2) {
      const [user, client] = [...there][(i * 7) % there.size]!
      there.delete(user)
      client.webSocket.terminate()
    } else there.set(`user${i}`, await open(t, `${far.ws}/room:1/${as(`user${i}`)}`))
    if (i % 10 === 5) {
      proxy.mode = 'refuse'
      proxy.cut()
    } else if (i % 10 === 9) proxy.mode = 'pass'
  }
  await present([near, far], 'room:1', ['near', ...there.keys()])
  await until(() => keep(watching.messages, 'room:1').size === there.size + 1)
})

t.test('a node learns after an outage of its listener what changed in the meantime', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const options = { checkListenerInterval: 300, nodeTimeout: 2000, presenceChannels: 'room:*' }
  const near = await build(t, { dbUri, ...options })
  const far = await build(t, { dbUri, listenerUri: proxy.uri(dbUri), ...options })
  const watching = await open(t, `${far.ws}/room:1/${as('far')}?presence=true`)
  const [stays, goes] = [
    await open(t, `${near.ws}/room:1/${as('stays')}`),
    await open(t, `${near.ws}/room:1/${as('goes')}`)
  ]
  await present([near, far], 'room:1', ['far', 'goes', 'stays'])
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !far.fastify.pgws.listenerState.up)
  goes.webSocket.close()
  await open(t, `${near.ws}/room:1/${as('comes')}`)
  await open(t, `${far.ws}/room:1/${as('local')}`)
  // It knows its own members at once, and the others as of the last notification.
  t.same(usersOf((await ask(far.http, 'room:1')).body.clients), ['far', 'goes', 'local', 'stays'])
  // Longer than the timeout, so the others have removed it.
  await present([near], 'room:1', ['comes', 'stays'])
  proxy.mode = 'pass'
  await present([near, far], 'room:1', ['comes', 'far', 'local', 'stays'])
  await until(() => [...keep(watching.messages, 'room:1').values()].sort().join() === 'comes,far,local,stays')
  t.equal(stays.webSocket.readyState, stays.webSocket.OPEN)
  // No leave was sent for members that stayed.
  t.notOk(watching.messages.some((text) => text.includes('"Leave"') && text.includes('stays')))
})

t.test('all nodes agree after many joins and leaves, and outages of their listeners', async (t) => {
  const { apps, dbUri } = await nodes(t, 2, {
    checkListenerInterval: 300,
    nodeTimeout: 2000,
    presenceChannels: 'room:**'
  })
  let seed = 7
  const random = (below: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
    return Math.floor((seed / 0x80000000) * below)
  }
  const watching: Client[] = []
  const there = new Map<string, Client>()
  for (let i = 0; i < 400; i++) {
    const app = apps[random(2)]!
    if (there.size > 30 || (there.size > 0 && random(3) === 0)) {
      const [user, client] = [...there][random(there.size)]!
      there.delete(user)
      if (random(2) === 0) client.webSocket.terminate()
      else client.webSocket.close()
    } else {
      const user = `user${i}`
      const asks = i % 10 === 0
      const client = await open(t, `${app.ws}/room:1/${as(user)}${asks ? '?presence=true' : ''}`)
      if (asks) watching.push(client)
      there.set(user, client)
    }
    if (i % 100 === 50) {
      await query(
        dbUri,
        `select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'fastify-pg-websockets listener' and datname = current_database()`
      )
    }
  }
  await present(apps, 'room:1', [...there.keys()])
  t.ok(watching.length > 10)
  let compared = 0
  for (const client of watching) {
    // Clients that have disconnected received no contradicting events either.
    t.doesNotThrow(() => keep(client.messages, 'room:1'))
    if (client.webSocket.readyState !== client.webSocket.OPEN) continue
    compared++
    const wanted = [...there.keys()].sort().join()
    await until(() => [...keep(client.messages, 'room:1').values()].sort().join() === wanted)
  }
  t.ok(compared > 0)
})

t.test('a client that joins a busy channel has neither gaps nor duplicates in its list', async (t) => {
  const { apps } = await nodes(t, 2)
  const open100 = (prefix: string, query = '') =>
    Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        open(t, `${apps[i % 2]!.ws}/room:1/${as(`${prefix}${i}`)}${query}`)
      )
    )
  const [crowd, informed] = await Promise.all([open100('crowd'), open100('told', '?presence=true')])
  for (const client of crowd) client.webSocket.close()
  const users = informed.map((_, i) => `told${i}`)
  await present(apps, 'room:1', users)
  for (const client of informed) {
    await until(
      () => [...keep(client.messages, 'room:1').values()].sort().join() === [...users].sort().join()
    )
  }
  t.equal((await ask(apps[0]!.http, 'room:1')).body.count, informed.length)
})

t.test('a node without presence channels sends nothing about them, and coexists with others', async (t) => {
  const dbUri = await database()
  const { payloads } = await sqlListener(t, dbUri, CLUSTER_CHANNEL)
  const plain = await build(t, { dbUri })
  const other = await build(t, { dbUri })
  await open(t, `${plain.ws}/room:1/${as('alice')}`)
  await until(() => other.fastify.pgws.nodes().length === 2)
  t.notOk(payloads.some((text) => text.includes('presence')))
  const mixed = await build(t, { dbUri, presenceChannels: 'room:*' })
  await open(t, `${mixed.ws}/room:1/${as('bob')}`)
  await until(() => mixed.fastify.pgws.nodes().length === 3)
  t.same(usersOf((await ask(mixed.http, 'room:1')).body.clients), ['bob'])
  t.match(await ask(plain.http, 'room:1'), { status: 404 })
})

t.test('ignores malformed presence forged in SQL, and corrects well-formed forgeries', async (t) => {
  const { apps, dbUri } = await nodes(t, 2, { nodeTimeout: 1000 })
  const [first, second] = apps as [App, App]
  const watching = await open(t, `${first.ws}/room:1/${as('alice')}?presence=true`)
  await open(t, `${second.ws}/room:1/${as('bob')}`)
  await present(apps, 'room:1', ['alice', 'bob'])
  const { id } = second.fastify.pgws.nodes()[0]!
  const stranger = 'f'.repeat(16)
  const send = (head: object, value?: unknown) =>
    notify(
      dbUri,
      JSON.stringify({ pgws: 1, ...head }) + (value === undefined ? '' : `\n${JSON.stringify(value)}`),
      CLUSTER_CHANNEL
    )
  const part = { type: 'presence', id: 1, part: 0, last: true }
  const joins = { after: 0, changes: [['room:1', 1, 'forged']] }
  for (const [head, value] of [
    [{ ...part, from: stranger }, joins],
    [{ ...part, from: id, id: 'x' }, joins],
    [{ ...part, from: id, part: -1 }, joins],
    [{ ...part, from: id, last: 1 }, joins],
    [{ ...part, from: id }, undefined],
    [
      { ...part, from: id },
      { after: 'x', changes: [] }
    ],
    [
      { ...part, from: id },
      { after: 1, changes: [['room:1', 1]], version: 5 }
    ],
    [
      { ...part, from: id },
      { version: 1, members: [['room:1', 1]] }
    ],
    [{ ...part, from: id, part: 5 }, joins],
    [{ from: stranger, type: 'presence-question', to: 'x' }, undefined],
    [{ from: stranger, type: 'presence-question', to: id }, undefined]
  ] as const) {
    await send(head, value)
  }
  const lines = { from: id, type: 'members', after: 1, version: 1000 }
  const line = (value: unknown, word = wordOf('room:1')) => `${word} ${JSON.stringify(value)}`
  for (const [head, text] of [
    [{ ...lines, from: stranger }, line(['room:1', 0, 1, [1, 'forged']])],
    [{ ...lines, after: -1 }, line(['room:1', 0, 1, [1, 'forged']])],
    [{ ...lines, done: 'x' }, line(['room:1', 0, 1, [1, 'forged']])],
    [{ ...lines, to: stranger }, line(['room:1', 0, 1, [1, 'forged']])],
    [lines, line(['room:1', 0, 1, [1, 'forged']], 'x')],
    [lines, line(['room:1', 0, 1, [1, 5]])],
    [lines, line(['room:1', 0, 'x', [1, 'forged']])],
    [lines, line([5, 0, 1, [1, 'forged']])],
    [lines, `${wordOf('room:1')} [`],
    [{ ...lines, type: 'members-part', id: 'x', part: 0, last: true }, 'x'],
    [{ ...lines, type: 'members-part', id: 1, part: 0, last: true }, 'x'],
    [{ from: stranger, type: 'members-question', to: id }, '']
  ] as const) {
    await notify(dbUri, `${JSON.stringify({ pgws: 1, ...head })}\n${text}`, CLUSTER_CHANNEL)
  }
  // A session that can send as a node is believed until the real node is heard.
  const forged = line(['room:1', 0, 1000, [1000, 'forged']])
  await notify(dbUri, `${JSON.stringify({ pgws: 1, ...lines })}\n${forged}`, CLUSTER_CHANNEL)
  await until(() => watching.messages.some((text) => text.includes('forged')))
  await present(apps, 'room:1', ['alice', 'bob'])
  await until(() => [...keep(watching.messages, 'room:1').values()].sort().join() === 'alice,bob')
  t.match(await first.fastify.pgws.presence('room:1'), { count: 2, users: 2 })
})
