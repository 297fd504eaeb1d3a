import { connect } from 'node:net'
import t, { type Test } from 'tap'
import type { NodeStats, ServerEvent } from '../../lib/events/index.js'
import { type Stream, stream } from '../support/event-stream.js'
import { build, open, query, refusal, token, until, withPostgres } from '../support/helper.js'

const { database, migrated } = await withPostgres(t)
const dbUri = await database()
const admin = { authorization: `Bearer ${token({ sub: 'root', admin: true })}` }

const eventsIn = ({ events }: Stream): ServerEvent[] =>
  events.filter(({ event }) => event === 'Event').map(({ data }) => JSON.parse(data))
const statsIn = ({ events }: Stream): NodeStats[] =>
  events.filter(({ event }) => event === 'NodeStats').map(({ data }) => JSON.parse(data))
async function listed(http: string, query = ''): Promise<ServerEvent[]> {
  const response = await fetch(`${http}/events${query}`, { headers: admin })
  return (await response.json()) as ServerEvent[]
}
const follow = (t: Test, http: string, query = '', headers = {}) =>
  stream(t, `${http}/events${query}`, { ...admin, ...headers })

t.test('events and the log contain the reason of a refused handshake, which browsers hide', async (t) => {
  const { http, ws, lines } = await build(t, { dbUri })
  const expired = token({ mode: 'r', exp: 1 })
  const { body } = await refusal(t, `${ws}/a/${expired}`)
  const { message, code } = JSON.parse(body) as { message: string; code: string }
  const [event] = await listed(http, '?types=refusal')
  t.match(event, {
    type: 'refusal',
    level: 'warning',
    text: `401: ${message}`,
    code,
    address: '127.0.0.1',
    transport: 'websocket'
  })
  t.ok(lines.some((line) => line.includes(`socket refused: ${message}`)))
  // SDKs have no refused handshake. Their first command is answered with an error, or the websocket is closed.
  const sdk = await open(t, `${ws}/connection/websocket`)
  sdk.send(JSON.stringify({ id: 1, connect: { token: `${expired}x` } }))
  t.equal((await sdk.closed()).code, 3500)
  const [, second] = await listed(http, '?types=refusal')
  t.match(second, { code: 'FST_PGWS_INVALID_TOKEN', transport: 'sdk-websocket' })
  t.match(second!.text, /^401: Error: the token is not signed/)
  t.notMatch(lines.join(''), /eyJ/)
  t.notMatch(JSON.stringify(await listed(http)), /eyJ/)
})

t.test(
  'reports closes, unknown parameters and ignored messages once, each with its connection',
  async (t) => {
    const { http, ws } = await build(t, { dbUri })
    const live = await follow(t, http, '?types=close,ignored,unknown-parameter')
    const client = await open(t, `${ws}/room/${token({ sub: 'ann', mode: 'r' })}?sinec=1&presense=true`)
    client.send('one')
    client.send('two')
    await until(() => eventsIn(live).some(({ type }) => type === 'ignored'))
    client.webSocket.close(4000, 'done')
    await until(() => eventsIn(live).some(({ type }) => type === 'close'))
    const all = eventsIn(live)
    t.same(
      all.map(({ type }) => type),
      ['unknown-parameter', 'unknown-parameter', 'ignored', 'close']
    )
    t.match(all[0]!.text, /"sinec" is unknown here: there are "channel", "since"/)
    const [connection] = all.map(({ connection }) => connection).filter((id) => id !== undefined)
    t.match(all[2], { subject: 'ann', channels: ['room'], transport: 'websocket', connection })
    t.match(all[3], {
      subject: 'ann',
      channels: ['room'],
      connection,
      code: 4000,
      reason: 'client',
      text: 'the client has ended the connection (4000 done)'
    })
    t.same(await listed(http, '?types=close'), [all[3]])
  }
)

t.test('a stream continues after an event, and ends with its token and its server', async (t) => {
  const { http, ws, fastify } = await build(t, { dbUri })
  for (let n = 0; n < 3; n++) await refusal(t, `${ws}/a/nothing`)
  const first = await follow(t, http)
  const [one] = await first.received(3)
  const again = await follow(t, http, '', { 'last-event-id': one!.id })
  await again.received(2)
  t.same(
    again.events.map(({ data }) => data),
    first.events.slice(1).map(({ data }) => data)
  )
  const exp = Math.floor(Date.now() / 1000) + 5
  const short = await stream(t, `${http}/events`, {
    authorization: `Bearer ${token({ admin: true, exp })}`
  })
  await short.ended
  const ended = again.ended
  await fastify.close()
  await ended
})

t.test(
  'a stream leaves out no event, however many bytes they have and however slowly it is read',
  async (t) => {
    const { http, fastify } = await build(t, { dbUri })
    let made = 0
    /** Adds events of some 12 KB. */
    const add = async (count: number) => {
      const all = Array.from({ length: count }, () => ({
        subject: 'x'.repeat(12_000),
        reason: String(made++)
      }))
      for (let i = 0; i < count; i += 50) {
        const some = all
          .slice(i, i + 50)
          .map((query) =>
            fetch(`${http}/connections?${new URLSearchParams(query)}`, { method: 'DELETE', headers: admin })
          )
        for (const { status } of await Promise.all(some)) t.equal(status, 200)
      }
    }
    const numbers = ({ events }: Stream) => events.map(({ id }) => Number(id!.split('-')[1]))
    await add(400)
    const whole = await follow(t, http, '?types=admin')
    await whole.received(400)

    // It does not read at first.
    const slow = connect(Number(new URL(http).port), '127.0.0.1')
    t.teardown(() => slow.destroy())
    slow.on('error', () => {})
    slow.write(
      `GET /events?types=admin HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: ${admin.authorization}\r\n\r\n`
    )
    await add(100)
    await whole.received(500)
    let text = ''
    slow.on('data', (chunk) => {
      text += chunk
    })
    const seen = () => [...text.matchAll(/^id: \w+-(\d+)$/gm)].map(([, number]) => Number(number))
    await until(() => seen().length === 500)
    t.same(seen(), numbers(whole))
    // One that does not read does not keep the server from closing.
    slow.pause()
    await add(600)
    await fastify.close()
  }
)

t.test('rejects malformed requests, and clients that are not administrators', async (t) => {
  const { http } = await build(t, { dbUri })
  const get = async (query: string, headers: Record<string, string> = admin) => {
    const response = await fetch(`${http}/events${query}`, { headers })
    return [response.status, ((await response.json()) as { message: string }).message] as const
  }
  const sse = { ...admin, accept: 'text/event-stream' }
  t.match(await get('?types=closing'), [400, /unknown type "closing": there are "close"/])
  t.match(await get('?types=close&types=refusal'), [400, /"types" must be given once/])
  t.match(await get('?stats=true&stats=true', sse), [400, /"stats" must be given once/])
  t.match(await get('?stats=yes'), [400, /"stats"/])
  t.match(await get('?stats=true'), [400, /text\/event-stream/])
  t.match(await get('?type=close', sse), [400, /"type" is unknown here/])
  t.match(await get('', { ...sse, 'last-event-id': 'x' }), [400, /Last-Event-ID/])
  t.match(await get('?scope=all', sse), [400, /"scope"/])
  t.match(await get('', { authorization: `Bearer ${token({ mode: 'r' })}` }), [403, /administrators/])
  t.match(await get('', { accept: 'text/event-stream' }), [401, /Authorization/])
})

t.test(
  'a stream of the cluster contains the events and the figures of all nodes, until it ends',
  async (t) => {
    const own = await migrated('kept')
    const first = await build(t, { dbUri: own })
    const second = await build(t, { dbUri: own })
    const nodes = async () =>
      (await (await fetch(`${first.http}/nodes`, { headers: admin })).json()) as {
        id: string
        stats: NodeStats
      }[]
    await until(async () => (await nodes()).length === 2)
    const [here, there] = await nodes()
    t.match(here!.stats, { node: here!.id, status: 'ok', reasons: [], connections: 0, delivery: null })
    t.match(there!.stats, { node: there!.id, status: 'ok', pool: { status: 'up' }, schema: { status: 'ok' } })

    // One event before the stream begins, and one after it.
    await refusal(t, `${second.ws}/a/nothing`)
    const live = await follow(t, first.http, '?scope=cluster&stats=true')
    const refusals = () => eventsIn(live).filter(({ type }) => type === 'refusal')
    await until(() => refusals().length === 1)
    t.equal(refusals()[0]!.node, there!.id)
    const client = await open(t, `${second.ws}/a/${token({ mode: 'r' })}`)
    await refusal(t, `${second.ws}/b/nothing`)
    await until(() => refusals().length === 2)
    await first.fastify.pgws.publish('a', 'hello')
    await client.received(1)
    const statsOf = (node: string) => statsIn(live).filter((stats) => stats.node === node)
    await until(() =>
      statsOf(there!.id).some(({ connections, delivery }) => connections === 1 && delivery !== null)
    )
    t.match(statsOf(there!.id).at(-1), {
      transports: { websocket: 1 },
      refusals: { FST_PGWS_INVALID_TOKEN: 2 },
      sentMessages: 1
    })
    await until(() => statsOf(here!.id).length > 2)
    t.match(
      (await listed(first.http, '?scope=cluster&types=refusal')).map(({ node }) => node),
      [there!.id, there!.id]
    )
    t.same(await listed(first.http, '?types=refusal'), [])

    // It resumes with the events of each node.
    const last = live.events.findLast(({ id }) => id !== undefined)!.id!
    live.response.destroy()
    await refusal(t, `${second.ws}/c/nothing`)
    const again = await follow(t, first.http, '?scope=cluster&types=refusal', { 'last-event-id': last })
    await again.received(1)
    t.equal(eventsIn(again)[0]!.node, there!.id)
    t.equal(again.events.length, 1)
  }
)

t.test('events show administrators, revocations, the sequencer and lost messages', async (t) => {
  const own = await migrated()
  const { http, ws } = await build(t, { dbUri: own })
  await until(async () => (await listed(http, '?types=sequencer')).length > 0)
  t.match((await listed(http, '?types=sequencer'))[0], { reason: 'leading', level: 'info' })
  const revoked = token({ jti: 'lost-phone', mode: 'r' })
  const client = await open(t, `${ws}/a/${revoked}`)
  const closed = client.closed()
  await query(own, `select pgws.revoke(jti => 'lost-phone')`)
  t.equal((await closed).code, 3500)
  await until(async () => (await listed(http, '?types=close')).length > 0)
  t.match(await listed(http, '?types=close,revocation'), [
    { type: 'revocation', reason: 'revoked', count: 1 },
    { type: 'close', reason: 'token-revoked', channels: ['a'] }
  ])
  const response = await fetch(`${http}/revocations`, {
    method: 'POST',
    headers: { ...admin, 'content-type': 'application/json' },
    body: JSON.stringify({ sub: 'mallory' })
  })
  t.equal(response.status, 201)
  t.match(await listed(http, '?types=admin'), [
    { subject: 'root', text: 'the administrator "root" revoked tokens of "mallory"' }
  ])
  await query(
    own,
    `select pg_notify('postgres-websockets-listener', '{"channel":"a","payload":"x","pgws":true}')`
  )
  await until(async () => (await listed(http, '?types=lost-messages')).length > 0)
  t.match((await listed(http, '?types=lost-messages'))[0], { reason: 'reserved', level: 'warning' })
})

t.test('events show that the listener is lost and connected again, and the health', async (t) => {
  const own = await database()
  const { http } = await build(t, { dbUri: own, checkListenerInterval: 200 })
  const live = await follow(t, http, '?stats=true')
  await until(() => statsIn(live).some(({ status }) => status === 'ok'))
  await query(
    own,
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and application_name = 'fastify-pg-websockets listener'`
  )
  await until(() => eventsIn(live).some(({ type }) => type === 'listener-reconnected'))
  const types = eventsIn(live).map(({ type }) => type)
  t.ok(types.indexOf('listener-lost') < types.indexOf('listener-reconnected'))
})
