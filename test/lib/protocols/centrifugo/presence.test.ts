import t, { type Test } from 'tap'
import { MAX_INFO_BYTES, MAX_USER_BYTES } from '../../../../lib/clients/presence-membership.js'
import { encodePresence } from '../../../../lib/cluster/messages/node-message.js'
import { encodeState } from '../../../../lib/presence/node-sync-message.js'
import { MAX_LISTED } from '../../../../lib/presence/presence.js'
import {
  build,
  type Client,
  LISTEN_CHANNEL,
  open,
  query,
  token,
  until,
  withPostgres
} from '../../../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()

const as = (sub: string, claims: object = {}) => token({ mode: 'rw', sub, ...claims })
const frame = (...commands: object[]) => commands.map((command) => JSON.stringify(command)).join('\n')

/** A client of the protocol without the SDK. */
async function connected(t: Test, ws: string, sub: string, claims: object = {}): Promise<Client> {
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(frame({ id: 1, connect: { token: as(sub, claims) } }))
  await client.received(1)
  return client
}

/** The joins and leaves of a user that a client has received. */
function changesOf({ messages }: Client, user: string): string[] {
  return messages
    .map((text) => JSON.parse(text))
    .flatMap(({ event, payload, push }) => {
      if (payload?.user === user) return [event.toLowerCase()]
      const [kind] = ['join', 'leave'].filter((name) => push?.[name]?.info.user === user)
      return kind ?? []
    })
}

const toggling = (count: number) =>
  frame(
    ...Array.from({ length: count }, (_, i) => ({
      id: i + 2,
      [i % 2 === 0 ? 'subscribe' : 'unsubscribe']: { channel: 'room:1' }
    }))
  )

t.test(
  'reports the state of a client that joins and leaves all the time once a second, and disconnects nobody',
  async (t) => {
    const { ws, fastify } = await build(t, { dbUri, presenceChannels: 'room:*' })
    const far = await build(t, { dbUri, presenceChannels: 'room:*' })
    const raw = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        open(t, `${(i % 2 ? far : { ws }).ws}/room:1/${as(`raw${i}`)}?presence=true`)
      )
    )
    const reader = await connected(t, ws, 'reader')
    reader.send(frame({ id: 2, subscribe: { channel: 'room:1', join_leave: true } }))
    await reader.received(2)
    const restless = await connected(t, ws, 'restless', { info: 'x'.repeat(1000) })
    restless.send(toggling(2001))
    await until(() => restless.messages.filter((text) => text.includes('"id":2002')).length === 1, 30_000)
    await fastify.pgws.publish('room:1', 'still here')
    const everyone = [...raw, reader]
    for (const client of everyone) {
      await until(() => client.messages.some((text) => text.includes('still here')))
      await until(() => changesOf(client, 'restless').at(-1) === 'join')
      const events = changesOf(client, 'restless')
      t.ok(events.length < 100, `${events.length} events`)
      t.ok(
        events.every((event, i) => event === (i % 2 ? 'leave' : 'join')),
        events.join()
      )
      t.equal(client.webSocket.readyState, client.webSocket.OPEN)
    }
    // The last state is reported, although it followed the previous one too soon.
    restless.send(frame({ id: 3000, unsubscribe: { channel: 'room:1' } }))
    for (const client of everyone) await until(() => changesOf(client, 'restless').at(-1) === 'leave')
    restless.send(toggling(1))
    for (const client of everyone) await until(() => changesOf(client, 'restless').at(-1) === 'join')
    t.ok((await fastify.pgws.presence('room:1')).clients.some(({ user }) => user === 'restless'))
    // A user who left is removed at once, and does not return.
    restless.send(frame({ id: 3001, unsubscribe: { channel: 'room:1' } }))
    restless.send(toggling(1))
    restless.webSocket.close()
    for (const client of everyone) await until(() => changesOf(client, 'restless').at(-1) === 'leave')
    await until(async () => (await far.fastify.pgws.presence('room:1')).count === 21)
  }
)

t.test('reports a client that reconnects as another user', async (t) => {
  const { ws, fastify } = await build(t, { dbUri, presenceChannels: 'room:*' })
  const client = await connected(t, ws, 'me', { info: 'old' })
  client.send(
    frame(
      { id: 2, subscribe: { channel: 'room:1' } },
      { id: 3, unsubscribe: { channel: 'room:1' } },
      { id: 4, refresh: { token: as('me', { info: 'new' }) } },
      { id: 5, subscribe: { channel: 'room:1' } }
    )
  )
  await until(async () => (await fastify.pgws.presence('room:1')).clients[0]?.info === 'new')
  t.equal((await fastify.pgws.presence('room:1')).count, 1)
})

t.test('limits the size of the user and info that others see', async (t) => {
  const { ws, fastify, lines } = await build(t, { dbUri, presenceChannels: 'room:*' })
  const fits = 'x'.repeat(MAX_INFO_BYTES - 2)
  for (const [sub, info] of [
    ['fits', fits],
    ['large', `${fits}x`],
    ['y'.repeat(MAX_USER_BYTES + 1), 'small']
  ] as const) {
    const client = await connected(t, ws, sub, { info })
    client.send(frame({ id: 2, subscribe: { channel: 'room:1' } }))
    await client.received(2)
  }
  const { clients } = await fastify.pgws.presence('room:1')
  t.same(
    clients.map(({ user, info }) => [user, info]),
    [
      ['fits', fits],
      ['large', undefined],
      ['', 'small']
    ]
  )
  const warnings = lines.filter((line) => line.includes('"info\\" of a token is not shown'))
  t.equal(warnings.length, 1)
  t.notOk(warnings[0]!.includes(fits))
})

t.test(
  'a large channel reports the number of members to all clients, and their names once it is small',
  async (t) => {
    const { ws, http, fastify } = await build(t, { dbUri, presenceChannels: 'room:*' })
    // Another node, as this one sees it.
    const from = 'f'.repeat(16)
    const state = {
      hostname: 'x',
      pid: 1,
      version: '1',
      startedAt: 1,
      connections: 0,
      timeout: 600_000,
      presence: 0
    }
    const send = (payloads: string[]) =>
      query(dbUri, 'select pg_notify($1, payload) from unnest($2::text[]) payload', [
        `pgws_nodes:${LISTEN_CHANNEL}`,
        payloads
      ])
    let version = 0
    const have = (count: number) => {
      const members = Array.from(
        { length: count },
        (_, i) => ['room:1', { client: `${from}-${i}`, user: `user${i}` }] as const
      )
      return send(encodePresence(from, ++version, encodeState(version, members)))
    }
    await send([JSON.stringify({ pgws: 1, from, type: 'here', node: state })])
    await have(MAX_LISTED)
    await until(async () => (await fastify.pgws.presence('room:1')).count === MAX_LISTED)
    const raw = await open(t, `${ws}/room:1/${as('raw')}?presence=true`)
    t.match(JSON.parse((await raw.received(1))[0]!), {
      pgws: true,
      event: 'Presence',
      channel: 'room:1',
      payload: { count: MAX_LISTED + 1, users: MAX_LISTED + 1 }
    })
    const client = await connected(t, ws, 'me')
    client.send(frame({ id: 2, subscribe: { channel: 'room:1', join_leave: true } }))
    const summary = { event: 'Presence', channel: 'room:1', payload: { count: MAX_LISTED + 2 } }
    const data = () => client.messages.flatMap((text) => JSON.parse(text).push?.message?.data ?? [])
    await until(() => data().length > 0)
    t.match(data()[0], summary)
    t.match(JSON.parse((await raw.received(2))[1]!), summary)
    client.send(
      frame({ id: 3, presence: { channel: 'room:1' } }, { id: 4, presence_stats: { channel: 'room:1' } })
    )
    await until(() => client.messages.some((text) => text.includes('"id":4')))
    const answer = (id: number) =>
      client.messages.map((text) => JSON.parse(text)).find((reply) => reply.id === id)
    t.match(answer(3), { error: { code: 106, message: /presence_stats/ } })
    t.match(answer(4), { presence_stats: { num_clients: MAX_LISTED + 2 } })
    const headers = { authorization: `Bearer ${as('me')}` }
    const asked = async () => (await fetch(`${http}/channels/room:1/presence`, { headers })).json()
    t.same(await asked(), { count: MAX_LISTED + 2, users: MAX_LISTED + 2 })
    t.notOk([...client.messages, ...raw.messages].some((text) => /"join"|"Join"/.test(text)))

    await have(10)
    const list = { event: 'Presence', payload: { clients: { length: 12 } } }
    await until(() => data().at(-1).payload.clients)
    t.match(data().at(-1), list)
    await until(() => raw.messages.some((text) => text.includes('"clients"')))
    t.match(await asked(), { count: 12, clients: { length: 12 } })
    await open(t, `${ws}/room:1/${as('late')}`)
    for (const one of [client, raw]) await until(() => changesOf(one, 'late').at(-1) === 'join')
  }
)
