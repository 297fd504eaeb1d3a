import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Revocations, type Token, tokenReader } from '../../../../lib/auth/index.js'
import { Expiry } from '../../../../lib/clients/index.js'
import { resolveOptions } from '../../../../lib/config/index.js'
import { errors } from '../../../../lib/errors.js'
import type { Listener } from '../../../../lib/listener/index.js'
import { buildParts } from '../../../../lib/parts.js'
import type { Rows } from '../../../../lib/postgres/index.js'
import { JoinLeavePush } from '../../../../lib/presence/index.js'
import type { SdkServices } from '../../../../lib/protocols/centrifugo/services.js'
import { Session } from '../../../../lib/protocols/centrifugo/session/session.js'
import { SdkPresence } from '../../../../lib/protocols/centrifugo/subscriptions/presence.js'
import { Recovery } from '../../../../lib/protocols/centrifugo/subscriptions/recovery.js'
import { Ends, type Subscription } from '../../../../lib/protocols/centrifugo/subscriptions/subscription.js'
import { StreamTransport } from '../../../../lib/protocols/centrifugo/transports/stream-transport.js'
import { SDK_FORMATS } from '../../../../lib/protocols/centrifugo/wire/formats.js'
import { SECRET } from '../../../support/helper.js'

const listener = { state: { up: true, reconnects: 0, gapMilliseconds: 0 } } as unknown as Listener
const read = tokenReader({})
const inAnHour = Math.floor(Date.now() / 1000) + 3600

/** A session on a response without a reader; the database has no schema and accepts every message. */
async function session(t: Test) {
  const logged: string[] = []
  const write = (_fields: object, message: string) => logged.push(message)
  const log = { debug: write, info: write, warn: write, error: write }
  const published: string[] = []
  const state = {
    /** A valid token is the JSON of its claims. */
    verify: async (text: string): Promise<Token> => {
      if (!text.startsWith('{')) throw new errors.InvalidToken('its signature is wrong')
      return read(JSON.parse(text))
    },
    publish: async (): Promise<void> => {}
  }
  const query = async <Row>(text: string, values: unknown[] = []): Promise<Rows<Row>> => {
    if (text.includes('pg_notify')) {
      await state.publish()
      published.push(String(values[1]))
      return { rows: [{ sent: 1 } as Row] }
    }
    return { rows: [{ there: false, counted: false, encoding: 'UTF8' } as Row] }
  }
  const options = resolveOptions({
    dbUri: 'postgresql://nowhere',
    jwtSecret: SECRET,
    maxChannelsPerConnection: 3
  })
  const parts = buildParts({
    ...options,
    query,
    sequencerQuery: query,
    call: query,
    verifyToken: (text) => state.verify(text),
    revocations: new Revocations(),
    onSchema() {},
    listener,
    log
  })
  parts.durable.known = true
  const core = {
    ...parts,
    verifyToken: (text: string) => state.verify(text),
    revocations: new Revocations(),
    joinLeavePush: new JoinLeavePush(parts.presence, () => t.fail('a message could not be encoded')),
    limits: options,
    log
  }
  const services: SdkServices = {
    core,
    recovery: new Recovery(core),
    presence: new SdkPresence(core),
    expiry: new Expiry<Subscription>((subscription) => subscription.expire()),
    ends: new Ends()
  }
  t.teardown(async () => {
    services.expiry.stop()
    services.presence.stop()
    parts.losses.stop()
    await parts.clients.close(0, { code: 1001, reason: 'the test has ended', cause: 'shutdown' })
  })
  const response = new ServerResponse(new IncomingMessage(new Socket()))
  const replies: Record<string, unknown>[] = []
  Object.assign(response, {
    write(bytes: Buffer) {
      replies.push(...lines(bytes))
      return true
    },
    end(bytes: Buffer) {
      replies.push(...lines(bytes))
      response.destroy()
    }
  })
  const transport = new StreamTransport({
    response,
    format: SDK_FORMATS.httpStream.json,
    remote: { address: '192.0.2.1', userAgent: undefined },
    clients: parts.clients,
    details: { session: 's', node: 'n' },
    maxHeldBytes: 1000
  })
  const session = new Session(services, transport)
  t.teardown(() => response.destroy())
  /** Sends commands in one text, and returns the replies. */
  const send = async (...commands: (object | string)[]) => {
    const lines = commands.map((one) => (typeof one === 'string' ? one : JSON.stringify(one)))
    session.receive(Buffer.from(lines.join('\n')))
    await settled()
    return replies.splice(0)
  }
  const connect = (claims: object) => send({ id: 1, connect: { token: JSON.stringify(claims) } })
  return { session, send, connect, published, state, logged, connections: parts.clients.connections, replies }
}

const lines = (bytes: Buffer): Record<string, unknown>[] =>
  bytes
    .toString()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))

async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await nextTurn()
}

const closed = (code: number, reason: string | RegExp) => [{ push: { disconnect: { code, reason } } }]

t.test('connect returns the client id, and when the token must be refreshed', async (t) => {
  const { connect, connections } = await session(t)
  const [reply] = await connect({ mode: 'r', sub: 'alice', exp: inAnHour })
  t.match(reply, {
    id: 1,
    connect: { client: /^\w+-\d+$/, ping: 30, pong: true, expires: true, session: 's', node: 'n' }
  })
  t.notOk('subs' in (reply!.connect as object))
  t.equal(connections.size, 1)
})

for (const [title, command, reason] of [
  ['a command before connect', { id: 1, subscribe: { channel: 'a' } }, /the first command must be connect/],
  ['no JSON', 'hello', /not JSON/],
  ['JSON that is no object', '[]', /must be a JSON object/],
  ['no method', { id: 1 }, /needs a method/],
  ['no id', { ping: {} }, /needs an id/],
  ['an id that is no positive integer', { id: -1, ping: {} }, /needs an id/],
  ['parameters that are no object', { id: 1, connect: 'x' }, /connect must be an object/],
  ['a token that is no text', { id: 1, connect: { token: 5 } }, /token must be a string/]
] as const) {
  t.test(`${title}: closes with 3501, and discards the commands after it`, async (t) => {
    const { send, session: it } = await session(t)
    t.match(await send(command, { id: 2, connect: { token: '{"mode":"r"}' } }), closed(3501, reason))
    t.ok(it.ended)
    t.same(await send({ id: 3, connect: { token: '{"mode":"r"}' } }), [])
  })
}

t.test('accepts one connect, and only known methods', async (t) => {
  const first = await session(t)
  await first.connect({ mode: 'r' })
  t.match(await first.connect({ mode: 'r' }), closed(3501, /it is connected already/))
  const second = await session(t)
  await second.connect({ mode: 'r' })
  t.match(await second.send({ id: 2, constructor: {} }), closed(3501, /an unknown method/))
})

t.test('answers the commands of one text in order, but no pings and messages without an id', async (t) => {
  const { send, session: it } = await session(t)
  const [connected, ...others] = await send(
    { id: 1, connect: { token: '{"mode":"rw","channels":["a","b"]}' } },
    '',
    { id: 2, subscribe: { channel: 'a' } },
    { send: { data: 1 } },
    { id: 3, ping: {} },
    { id: 4, subscribe: { channel: 'a' } },
    { id: 5, subscribe: { channel: 'elsewhere' } },
    { id: 6, rpc: { method: 'x' } },
    { id: 7, subscribe: { channel: '' } }
  )
  t.match(connected, { id: 1, connect: {} })
  const byId = new Map(others.slice(0, -1).map((reply) => [reply.id, reply]))
  t.same(byId.get(2), { id: 2, subscribe: {} })
  t.same(byId.get(3), { id: 3, ping: {} })
  t.match(byId.get(4), { error: { code: 105 } })
  t.match(byId.get(5), { error: { code: 103 } })
  t.match(byId.get(6), { error: { code: 108 } })
  t.match(others.slice(-1), closed(3501, /the channel is missing/))
  t.same(
    others.map(({ id }) => id).filter((id) => id === 3 || id === 6),
    [3, 6]
  )
  t.ok(it.ended)
})

t.test('an answer to a ping counts at once, even behind commands that wait', async (t) => {
  const { connect, send, session: it, state } = await session(t)
  await connect({ mode: 'rw' })
  let proceed = () => {}
  const waits = new Promise<void>((resolve) => {
    proceed = resolve
  })
  const { verify } = state
  state.verify = async (text) => {
    await waits
    return verify(text)
  }
  it.connection!.ping()
  t.equal(it.connection!.unanswered, 1)
  // The refresh waits, and the commands after it.
  t.match(await send({ id: 2, refresh: { token: '{"mode":"rw"}' } }, { id: 3, ping: {} }), [{}])
  t.same(await send('{}'), [])
  t.equal(it.connection!.unanswered, 0)
  proceed()
  t.match(await send(), [
    { id: 2, refresh: {} },
    { id: 3, ping: {} }
  ])
})

t.test(
  'an invalid token closes the connection; an expired one gets an error, and can be replaced',
  async (t) => {
    const invalid = await session(t)
    t.match(
      await invalid.send({ id: 1, connect: { token: 'forged' } }, { id: 2, subscribe: { channel: 'a' } }),
      closed(3500, 'invalid token')
    )
    const missing = await session(t)
    t.match(await missing.send({ id: 1, connect: {} }), closed(3500, /it is missing/))

    const late = await session(t)
    const expired = { id: 1, connect: { token: '{"mode":"r","exp":1}' } }
    // The SDK sends its subscriptions together with connect: they are discarded.
    t.match(await late.send(expired, { id: 2, subscribe: { channel: 'a' } }), [
      { id: 1, error: { code: 109 } }
    ])
    t.equal(late.connections.size, 0)
    t.match(await late.send({ id: 3, connect: { token: '{"mode":"r"}' } }), [{ id: 3, connect: {} }])
    t.equal(late.connections.size, 1)
  }
)

t.test('a client that disconnects before its token is verified occupies no place', async (t) => {
  const { send, session: it, state, connections } = await session(t)
  let proceed = () => {}
  const waits = new Promise<void>((resolve) => {
    proceed = resolve
  })
  const { verify } = state
  state.verify = async (text) => {
    await waits
    return verify(text)
  }
  await send({ id: 1, connect: { token: '{"mode":"r"}' } })
  it.end()
  proceed()
  t.same(await send(), [])
  t.equal(it.connection, undefined)
  t.equal(connections.size, 0)
})

t.test('publish is answered once the database has accepted it, and delays no other command', async (t) => {
  const { connect, send, published, state } = await session(t)
  await connect({ mode: 'rw', channels: ['a'] })
  let proceed = () => {}
  state.publish = () =>
    new Promise<void>((resolve) => {
      proceed = resolve
    })
  t.same(await send({ id: 2, publish: { channel: 'a', data: { n: 1 } } }, { id: 3, ping: {} }), [
    { id: 3, ping: {} }
  ])
  t.same(published, [])
  proceed()
  t.same(await send(), [{ id: 2, publish: {} }])
  t.match(published, [/"channel":"a","payload":{"n":1}/])
})

t.test('a message that cannot be published gets an error of its own, and the client stays', async (t) => {
  const { connect, send, published, state, logged, session: it } = await session(t)
  await connect({ mode: 'rw', channels: ['a'] })
  const publish = async (params: object) => {
    const [reply] = await send({ id: 2, publish: { channel: 'a', data: 1, ...params } })
    return reply
  }
  t.match(await publish({ channel: 'b' }), { id: 2, error: { code: 103 } })
  t.match(await publish({ channel: '\u0000audience' }), { id: 2, error: { code: 107 } })
  t.match(await publish({ data: 'x'.repeat(9000) }), { id: 2, error: { code: 106 } })
  t.match(await publish({ type: 1 }), { id: 2, error: { code: 108 } })
  t.same(published, [])

  state.publish = () => Promise.reject(new errors.OutcomeUnknown('it went away'))
  t.match(await publish({}), { id: 2, error: { code: 100, temporary: true } })
  t.notMatch(logged, ['a command failed'])
  // An error of the server is logged, and the client learns no details.
  state.publish = () => Promise.reject(new Error('the secret of the server'))
  t.same(await publish({}), {
    id: 2,
    error: { code: 100, message: 'internal server error', temporary: true }
  })
  t.ok(logged.includes('a command failed'))
  t.notOk(it.ended)
  t.match(await send({ id: 3, publish: { channel: 'a' } }), closed(3501, /data is missing/))
})

t.test('refresh replaces the token by another one of the same user', async (t) => {
  const { connect, send, session: it } = await session(t)
  await connect({ mode: 'r', sub: 'alice', channels: ['a', 'b'], exp: inAnHour })
  await send({ id: 2, subscribe: { channel: 'a' } }, { id: 3, subscribe: { channel: 'b' } })
  const refresh = (id: number, claims: object) => send({ id, refresh: { token: JSON.stringify(claims) } })
  // It may read fewer channels: a subscription that it does not allow ends.
  const replies = await refresh(4, { mode: 'r', sub: 'alice', channels: ['b'] })
  t.match(
    replies.find(({ id }) => id === 4),
    { id: 4, refresh: {} }
  )
  t.match(
    replies.find(({ push }) => push),
    { push: { channel: 'a', unsubscribe: {} } }
  )
  t.same([...it.connection!.channels], ['b'])
  t.match(await refresh(5, { mode: 'r', sub: 'bob' }), closed(3500, /belongs to another user/))
})

t.test('an expired token cannot refresh another', async (t) => {
  const { connect, send } = await session(t)
  await connect({ mode: 'r', sub: 'alice' })
  const late = JSON.stringify({ mode: 'r', sub: 'alice', exp: 1 })
  t.match(await send({ id: 2, refresh: { token: late } }), closed(3005, /expired/))
})

t.test('the first channel beyond the limit of a connection gets an error', async (t) => {
  const { connect, send } = await session(t)
  await connect({ mode: 'r' })
  const replies = await send(
    ...['a', 'b', 'c', 'd'].map((channel, i) => ({ id: 2 + i, subscribe: { channel } }))
  )
  const refused = replies.filter(({ error }) => error)
  t.match(refused, [{ id: 5, error: { code: 106 } }])
  t.equal(replies.length, 4)
})
