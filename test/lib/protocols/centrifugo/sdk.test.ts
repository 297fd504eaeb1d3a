import t from 'tap'
import { FaultProxy } from '../../../support/fault-proxy.js'
import {
  build,
  notify,
  open,
  query,
  sqlListener,
  token,
  until,
  withPostgres
} from '../../../support/helper.js'
import { type Centrifuge, encoding, raw, SDKS, sdk, subscribed } from '../../../support/sdk.js'

const { postgres, database, migrated } = await withPostgres(t)

/** A database that stores channels that match the patterns, before any server starts. */
async function retaining(pattern: string, maxMessages: number | null = null) {
  const dbUri = await migrated()
  await query(dbUri, `select pgws.retain($1, interval '1 hour', $2)`, [pattern, maxMessages])
  return dbUri
}

const rw = (claims: object = {}) => token({ mode: 'rw', sub: 'me', ...claims })
const inSeconds = (seconds: number) => Math.floor(Date.now() / 1000) + seconds

/** Resolves with the next event of this name. */
const next = <Context>(emitter: unknown, event: string) =>
  new Promise<Context>((resolve) => (emitter as Centrifuge).once(event as 'connected', resolve as never))

for (const [version, Sdk] of Object.entries(SDKS)) {
  t.test(`the SDK ${version} connects, subscribes and publishes, with other clients`, async (t) => {
    const dbUri = await database()
    const { ws } = await build(t, { dbUri })
    const { payloads } = await sqlListener(t, dbUri)
    const client = sdk(t, ws, { token: rw() }, Sdk)
    const socket = await open(t, `${ws}/chat/${rw({ sub: 'raw' })}`)
    const { subscription, got } = subscribed(client, 'chat')
    client.connect()
    await subscription.ready(30_000)
    await client.publish('chat', { text: 'from the SDK' })
    await subscription.publish('text')
    socket.send('from a socket')
    await socket.received(3)
    await notify(dbUri, '{"channel":"chat","payload":{"n":1},"event":"Tick"}')
    await notify(dbUri, '{"channel":"chat","other":1}')
    await until(() => got.length === 5)
    t.match(got, [
      {
        data: { text: 'from the SDK' },
        tags: { event: 'WebsocketMessage' },
        info: { user: 'me', connInfo: { mode: 'rw' } }
      },
      { data: 'text' },
      { data: 'from a socket', info: { user: 'raw' } },
      { data: { n: 1 }, tags: { event: 'Tick' } },
      { data: '{"channel":"chat","other":1}' }
    ])
    // Protobuf has 0 for no offset, and older SDKs pass it on.
    const none = encoding === 'json' ? [undefined] : [undefined, 0]
    t.ok(got.every(({ offset }) => none.includes(offset && Number(offset))))
    t.match(JSON.parse(socket.messages[0]!), {
      event: 'WebsocketMessage',
      channel: 'chat',
      payload: { text: 'from the SDK' },
      claims: { sub: 'me' }
    })
    await until(() => payloads.length === 5)
    t.equal(payloads[0], socket.messages[0])
    subscription.unsubscribe()
    await t.rejects(client.history('chat', { limit: 1 }), { code: 108 })
    await t.rejects(client.rpc('anything', {}), { code: 108 })
    await client.send({ ignored: true })
    await notify(dbUri, '{"channel":"chat","payload":"after"}')
    await socket.received(6)
    t.equal(got.length, 5)
  })

  t.test(
    `the SDK ${version} recovers the missed messages of a durable channel once and in order`,
    async (t) => {
      const dbUri = await retaining('room:*')
      const nodes = [await build(t, { dbUri }), await build(t, { dbUri })]
      await query(dbUri, `select pgws.publish('room:a', '0')`)
      await query(dbUri, 'select pgws.catch_up()')
      let node = 0
      const client = sdk(
        t,
        '',
        { token: rw() },
        Sdk,
        // Each time it connects to the other node.
        [{ transport: 'websocket', endpoint: () => `${nodes[node++ % 2]!.ws}/connection/websocket` }]
      )
      const { subscription, got, contexts } = subscribed(client, 'room:a')
      client.connect()
      await subscription.ready(30_000)
      let sent = 0
      for (let round = 0; round < 4; round++) {
        for (let i = 0; i < 5; i++) await query(dbUri, `select pgws.publish('room:a', $1)`, [++sent])
        await until(() => got.length === sent)
        const again = next(subscription, 'subscribed')
        raw(client)!.terminate()
        for (let i = 0; i < 5; i++) await query(dbUri, `select pgws.publish('room:a', $1)`, [++sent])
        await again
        await until(() => got.length === sent)
      }
      t.same(
        got.map(({ data }) => data),
        Array.from({ length: sent }, (_, i) => i + 1)
      )
      const offsets = got.map(({ offset }) => offset!)
      t.same(
        offsets,
        [...offsets].sort((a, b) => a - b)
      )
      t.ok(contexts.length >= 5)
      t.ok(contexts.slice(1).every(({ wasRecovering, recovered }) => wasRecovering && recovered))
      const history = await subscription.history({ limit: 3, reverse: true })
      t.same(
        history.publications.map(({ data }) => data),
        [sent, sent - 1, sent - 2]
      )
      const { offset, epoch } = history
      const newer = await subscription.history({ limit: -1, since: { offset: offsets.at(-3)!, epoch } })
      t.same(
        newer.publications.map(({ data }) => data),
        [sent - 1, sent]
      )
      await t.rejects(subscription.history({ limit: 1, since: { offset, epoch: 'other' } }), { code: 112 })
    }
  )
}

t.test('tokens: the error makes the SDK stop, or send a new token', async (t) => {
  const { ws } = await build(t, { dbUri: await database() })
  const stops = async (options: object) => {
    const client = sdk(t, ws, options)
    const disconnected = next<{ code: number; reason: string }>(client, 'disconnected')
    client.connect()
    return disconnected
  }
  t.match(await stops({ token: token({ mode: 'r' }, 'another secret of another server!') }), {
    code: 3500,
    reason: 'invalid token'
  })
  t.match(await stops({ token: 'nonsense' }), { code: 3500 })
  t.match(await stops({}), { code: 3500, reason: /missing/ })
  t.match(await stops({ token: rw({ mode: 'x' }) }), { code: 103 })
  // The token has expired, and the client has no way to get another.
  t.match(await stops({ token: rw({ exp: inSeconds(-5) }) }), { code: 1, reason: 'unauthorized' })
  let asked = 0
  const client = sdk(t, ws, { token: rw({ exp: inSeconds(-5) }), getToken: async () => rw({ n: ++asked }) })
  // Commands sent together with a failing connect are discarded.
  const { subscription } = subscribed(client, 'a')
  client.connect()
  await subscription.ready(30_000)
  t.equal(asked, 1)
  const plain = await open(t, `${ws}/connection/websocket`)
  const expired = { id: 1, connect: { token: rw({ exp: inSeconds(-5) }) } }
  plain.send(`${JSON.stringify(expired)}\n{"id":2,"subscribe":{"channel":"a"}}`)
  plain.send(JSON.stringify({ id: 3, connect: { token: rw() } }))
  t.match(
    (await plain.received(2)).map((text) => JSON.parse(text)),
    [
      { id: 1, error: { code: 109 } },
      { id: 3, connect: {} }
    ]
  )
})

t.test('a token can be refreshed on the open connection by another one of the same user', async (t) => {
  const dbUri = await database()
  const { ws, fastify } = await build(t, { dbUri })

  async function refreshes() {
    let asked = 0
    const client = sdk(t, ws, { getToken: async () => rw({ exp: inSeconds(3), n: ++asked }) })
    const { subscription, got } = subscribed(client, 'a')
    client.connect()
    await subscription.ready(30_000)
    const [{ id }] = (await fastify.pgws.connections({ subject: 'me' })) as unknown as [{ id: string }]
    await until(() => asked >= 3)
    const [connection] = await fastify.pgws.connections({ subject: 'me' })
    t.match(connection, { id, channels: ['a'], subject: 'me' })
    await client.publish('a', 1)
    await until(() => got.length === 1)
    const { connInfo } = got[0]!.info as { connInfo: { n: number } }
    t.ok(connInfo.n > 1, 'with the claims of a later token')
  }

  async function refreshesAsAnother() {
    const stranger = sdk(t, ws, {
      token: rw({ sub: 'stranger', exp: inSeconds(4) }),
      getToken: async () => rw({ sub: 'other' })
    })
    const disconnected = next<{ code: number }>(stranger, 'disconnected')
    stranger.connect()
    t.match(await disconnected, { code: 3500 })
  }

  // A token with fewer permissions ends the subscriptions that it does not allow.
  async function refreshesWithLess() {
    const less = sdk(t, ws, {
      token: rw({ sub: 'less', exp: inSeconds(4), channels: ['a', 'b'] }),
      getToken: async () => rw({ sub: 'less', channels: ['a'] })
    })
    const kept = subscribed(less, 'a').subscription
    const lost = subscribed(less, 'b').subscription
    less.connect()
    await Promise.all([kept.ready(30_000), lost.ready(30_000)])
    t.match(await next(lost, 'unsubscribed'), { code: 2000 })
    t.equal(kept.state, 'subscribed')
  }

  // Each waits for a token to expire.
  await Promise.all([refreshes(), refreshesAsAnother(), refreshesWithLess()])
})

t.test('permissions come from mode and channels of the token, or from subscription tokens', async (t) => {
  const dbUri = await database()
  const { ws } = await build(t, { dbUri, maxChannelsPerConnection: 4 })
  const unsubscribed = async (client: Centrifuge, channel: string, options: object = {}) => {
    const { subscription } = subscribed(client, channel, options)
    return next<{ code: number; reason: string }>(subscription, 'unsubscribed')
  }
  const reader = sdk(t, ws, { token: token({ mode: 'r', channels: ['a'], channel_patterns: ['user:*'] }) })
  reader.connect()
  await reader.ready(30_000)
  t.match(await unsubscribed(reader, 'b'), { code: 103 })
  await subscribed(reader, 'a').subscription.ready(30_000)
  await subscribed(reader, 'user:7').subscription.ready(30_000)
  await t.rejects(reader.publish('a', 1), { code: 103 })
  const writer = sdk(t, ws, { token: token({ mode: 'w', channels: ['a'] }) })
  writer.connect()
  await writer.ready(30_000)
  t.match(await unsubscribed(writer, 'a'), { code: 103 })
  await writer.publish('a', 1)
  await t.rejects(writer.publish('b', 1), { code: 103 })

  // A connection whose token has no mode needs a subscription token for each channel.
  const bare = sdk(t, ws, { token: token({ sub: 'me' }) })
  bare.connect()
  await bare.ready(30_000)
  t.match(await unsubscribed(bare, 'a'), { code: 103 })
  const grant = (claims: object) => token({ sub: 'me', ...claims })
  const read = subscribed(bare, 'b', { token: grant({ channel: 'b' }) }).subscription
  const write = subscribed(bare, 'c', { token: grant({ channel: 'c', allow: ['pub'] }) })
  await Promise.all([read.ready(30_000), write.subscription.ready(30_000)])
  await t.rejects(read.publish(1), { code: 103 })
  await write.subscription.publish(2)
  await until(() => write.got.length === 1)
  t.match(
    await unsubscribed(bare, 'd', { token: token({ channel: 'd' }, 'another secret of another server!') }),
    {
      code: 103
    }
  )
  let asked = 0
  const renewed = subscribed(bare, 'e', {
    token: grant({ channel: 'e', exp: inSeconds(-1) }),
    getToken: async () => grant({ channel: 'e', exp: inSeconds(2), n: ++asked })
  }).subscription
  await renewed.ready(30_000)
  await until(() => asked >= 2)
  t.equal(renewed.state, 'subscribed')
  await subscribed(bare, 'f', { token: grant({ channel: 'f' }) }).subscription.ready(30_000)
  t.match(await unsubscribed(bare, 'g', { token: grant({ channel: 'g' }) }), { code: 106 })
  for (const wrong of [{ channel: 'other' }, { channel: 'b', sub: 'you' }, { channel: 'b', client: 'x' }]) {
    const foreign = sdk(t, ws, { token: token({ sub: 'me' }) })
    const disconnected = next<{ code: number }>(foreign, 'disconnected')
    subscribed(foreign, 'b', { token: grant(wrong) })
    foreign.connect()
    t.match(await disconnected, { code: 3500 })
  }
})

t.test('the server subscribes the client to the channels of the claim subs, and recovers them', async (t) => {
  const dbUri = await retaining('kept')
  const { ws, fastify } = await build(t, { dbUri, migrate: true })
  const client = sdk(t, ws, {
    token: token({ sub: 'me', subs: { kept: { data: { hello: 1 } }, plain: {} } })
  })
  const got: unknown[] = []
  const contexts: { channel: string; data?: unknown; recovered: boolean }[] = []
  client.on('publication', ({ channel, data }) => got.push([channel, data]))
  client.on('subscribed', (context) => contexts.push(context as never))
  client.connect()
  await until(() => contexts.length === 2)
  t.match(
    contexts.find(({ channel }) => channel === 'kept'),
    { data: { hello: 1 } }
  )
  await fastify.pgws.publish('kept', 1)
  await fastify.pgws.publish('plain', 2)
  await until(() => got.length === 2)
  raw(client)!.close()
  await until(() => fastify.pgws.channels().length === 0)
  await fastify.pgws.publish('kept', 3)
  await until(() => got.length === 3)
  t.same(got, [
    ['kept', 1],
    ['plain', 2],
    ['kept', 3]
  ])
  t.ok(contexts.slice(2).find(({ channel }) => channel === 'kept')!.recovered)
})

t.test('reports a position that cannot be recovered, and continues the subscription live', async (t) => {
  const dbUri = await retaining('kept', 3)
  const { ws } = await build(t, { dbUri, migrate: true })
  const publish = (n: number) => query(dbUri, `select pgws.publish('kept', $1)`, [n])
  for (let n = 1; n <= 10; n++) await publish(n)
  const client = sdk(t, ws, { token: rw() })
  client.connect()
  await client.ready(30_000)
  const { epoch, offset: top } = await client.history('kept', { limit: 0 })
  await query(dbUri, 'select pgws.catch_up(); select pgws.clean()')
  const tried: [string, { offset: number; epoch: string }, boolean, number][] = [
    ['trimmed', { offset: 2, epoch }, false, 0],
    ['of another database', { offset: top - 1, epoch: 'other' }, false, 0],
    ['in the future', { offset: top + 100, epoch }, false, 0],
    ['just in reach', { offset: top - 2, epoch }, true, 2],
    ['with nothing missed', { offset: top, epoch }, true, 0],
    ['of an unnamed epoch', { offset: top - 1, epoch: '' }, true, 1]
  ]
  for (const [name, since, recovered, count] of tried) {
    const { subscription, got, contexts } = subscribed(client, 'kept', { since })
    await subscription.ready(30_000)
    t.match(contexts, [{ wasRecovering: true, recovered }], name)
    await until(() => got.length >= count)
    t.equal(got.length, count, name)
    subscription.unsubscribe()
    client.removeSubscription(subscription)
  }
})

t.test('messages beyond the first reply follow, while more are published', async (t) => {
  const dbUri = await retaining('kept')
  const { ws } = await build(t, { dbUri, migrate: true })
  const client = sdk(t, ws, { token: rw() })
  client.connect()
  await client.ready(30_000)
  const { epoch, offset } = await client.history('kept', { limit: 0 })
  await query(dbUri, `select pgws.publish('kept', to_jsonb(n)) from generate_series(1, 2500) n`)
  const pouring = (async () => {
    for (let n = 2501; n <= 2700; n++) await query(dbUri, `select pgws.publish('kept', $1)`, [n])
  })()
  const { got, contexts } = subscribed(client, 'kept', { since: { offset, epoch } })
  await pouring
  await until(() => got.length >= 2700)
  t.same(
    got.map(({ data }) => data),
    Array.from({ length: 2700 }, (_, i) => i + 1)
  )
  t.match(contexts, [{ wasRecovering: true, recovered: true }])
})

t.test('an outage of the listener: durable channels miss nothing, others are subscribed again', async (t) => {
  const dbUri = await retaining('kept', 5)
  const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
  const { ws, fastify } = await build(t, {
    dbUri,
    listenerUri: proxy.uri(dbUri),
    migrate: true,
    checkListenerInterval: 300
  })
  const publish = (n: number) => query(dbUri, `select pgws.publish('kept', $1)`, [n])
  const client = sdk(t, ws, { token: rw() })
  const kept = subscribed(client, 'kept')
  const plain = subscribed(client, 'plain')
  client.connect()
  await Promise.all([kept.subscription.ready(30_000), plain.subscription.ready(30_000)])
  await publish(1)
  await until(() => kept.got.length === 1)

  const away = async (meanwhile: () => Promise<unknown>) => {
    proxy.mode = 'refuse'
    proxy.cut()
    await meanwhile()
    proxy.mode = 'pass'
  }
  await away(() => publish(2))
  await until(() => plain.contexts.length === 2)
  await fastify.pgws.publish('plain', 'again')
  await until(() => kept.got.length === 2 && plain.got.length === 1)
  t.equal(kept.contexts.length, 1)

  // If messages cannot be replayed, the SDK subscribes again with "recovered: false".
  await away(async () => {
    for (let n = 3; n <= 20; n++) await publish(n)
    await query(dbUri, 'select pgws.catch_up(); select pgws.clean()')
  })
  await until(() => kept.contexts.length === 2)
  t.match(kept.contexts[1], { wasRecovering: true, recovered: false })
  await publish(21)
  await until(() => kept.got.at(-1)?.data === 21)
})

t.test('raw channels, and functions in SQL', async (t) => {
  const dbUri = await database()
  await query(
    dbUri,
    `create schema app;
     create function app.on_message(message jsonb) returns jsonb language plpgsql as $$
     begin
       if message ->> 'payload' = 'bad' then raise exception 'not that'; end if;
       return message;
     end $$;
     create function app.authorize(channel text, mode text, claims jsonb) returns boolean language sql as
       'select channel <> ''forbidden'' and (mode = ''r'' or channel <> ''quiet'')'`
  )
  const { ws } = await build(t, {
    dbUri,
    migrate: true,
    rawChannels: 'raw:*',
    onMessageFunction: 'app.on_message',
    authorizeFunction: 'app.authorize'
  })
  const client = sdk(t, ws, { token: rw() })
  const direct = subscribed(client, 'raw:a')
  const quiet = subscribed(client, 'quiet')
  const forbidden = subscribed(client, 'forbidden')
  const refused = next(forbidden.subscription, 'unsubscribed')
  client.connect()
  await Promise.all([direct.subscription.ready(30_000), quiet.subscription.ready(30_000)])
  t.match(await refused, { code: 103, reason: /does not allow this on the channel "forbidden"/ })
  await notify(dbUri, 'as it is', 'raw:a')
  await direct.subscription.publish('from the SDK')
  await t.rejects(direct.subscription.publish('bad'), { code: 422, message: 'not that' })
  await t.rejects(quiet.subscription.publish('x'), { code: 103 })
  await until(() => direct.got.length === 2)
  t.same(
    direct.got.map(({ data }) => data),
    ['as it is', 'from the SDK']
  )
})

t.test('closes the connection with a reason after an invalid command', async (t) => {
  const { ws, lines } = await build(t, { dbUri: await database() })
  const connect = JSON.stringify({ id: 1, connect: { token: rw() } })
  const tried: [string[], number, RegExp][] = [
    [['no json'], 3501, /not JSON/],
    [['[]'], 3501, /JSON object/],
    [['{"id":1,"subscribe":{"channel":"a"}}'], 3501, /first command must be connect/],
    [[connect, connect], 3501, /connected already/],
    [[connect, '{"id":2,"dance":{}}'], 3501, /unknown method/],
    [[connect, '{"subscribe":{"channel":"a"}}'], 3501, /needs an id/],
    [[connect, '{"id":2,"subscribe":{}}'], 3501, /channel is missing/],
    [[connect, '{"id":2,"publish":{"channel":"a"}}'], 3501, /data is missing/],
    [[connect, '{"id":2,"subscribe":{"channel":5}}'], 3501, /channel must be a string/],
    [['{"id":1,"connect":{"token":""}}'], 3500, /missing/]
  ]
  for (const [sent, code, reason] of tried) {
    const client = await open(t, `${ws}/connection/websocket`)
    const closed = client.closed()
    for (const text of sent) client.send(text)
    t.match(await closed, { code, reason }, sent.at(-1)!)
  }
  t.notOk(lines.some((line) => line.includes(rw())))
})

t.test('details of the protocol', async (t) => {
  const dbUri = await database()
  const { ws } = await build(t, { dbUri })
  const client = await open(t, `${ws}/connection/websocket`)
  // All in one message, as the SDK sends them; blank lines are ignored.
  client.send(
    `${JSON.stringify({ id: 1, connect: { token: rw() } })}\n{"id":2,"subscribe":{"channel":"a"}}\n\n{"id":3,"subscribe":{"channel":"a"}}\n`
  )
  client.send(Buffer.from('{"id":4,"unsubscribe":{"channel":"never"}}'))
  client.send('{}')
  client.send('{"send":{"data":1}}')
  client.send('{"id":5,"subscribe":{"channel":"m","type":1}}\n{"id":6,"subscribe":{"channel":"t","tf":{}}}')
  client.send('{"id":7,"publish":{"channel":"a","data":null}}')
  // The publication may arrive before the reply to its command.
  await client.received(8)
  const replies = new Map(client.messages.map((text) => [JSON.parse(text).id, JSON.parse(text)]))
  t.match(replies.get(1).connect, {
    client: /^[0-9a-f]{16}-\d+$/,
    version: /^fastify-pg-websockets /,
    ping: 30,
    pong: true
  })
  t.notOk('expires' in replies.get(1).connect)
  t.same(replies.get(2), { id: 2, subscribe: {} })
  t.equal(replies.get(3).error.code, 105)
  t.same(replies.get(4), { id: 4, unsubscribe: {} })
  t.equal(replies.get(5).error.code, 108)
  t.equal(replies.get(6).error.code, 107)
  t.same(replies.get(7), { id: 7, publish: {} })
  t.ok(client.messages.some((text) => text.includes('"pub":{"data":null')))

  // As the SDK for Python connects.
  const python = await open(t, `${ws}/connection/websocket`, { headers: { 'sec-websocket-protocol': '' } })
  python.send(JSON.stringify({ id: 1, connect: { token: rw() } }))
  t.match(JSON.parse((await python.received(1))[0]!), { id: 1, connect: { pong: true } })
})

t.test('a shutdown or an operator closes the connection with codes that the SDK understands', async (t) => {
  const dbUri = await database()
  const first = await build(t, { dbUri })
  const second = await build(t, { dbUri })
  let node = 0
  const nodes = [first, second]
  const client = sdk(t, '', { token: rw() }, undefined, [
    { transport: 'websocket', endpoint: () => `${nodes[node]!.ws}/connection/websocket` }
  ])
  const { subscription, got } = subscribed(client, 'a')
  client.connect()
  await subscription.ready(30_000)
  t.match(await first.fastify.pgws.connections({ channel: 'a' }), [
    { subject: 'me', channels: ['a'], mode: 'rw' }
  ])
  t.match(first.fastify.pgws.channels(), [{ channel: 'a', connections: 1, readers: 1, writers: 1 }])
  const left = next(client, 'connecting')
  node = 1
  await first.fastify.close()
  t.match(await left, { code: 3001, reason: 'shutdown' })
  await until(() => subscription.state === 'subscribed')
  await second.fastify.pgws.publish('a', 1)
  await until(() => got.length === 1)
  const ended = next(client, 'disconnected')
  await second.fastify.pgws.disconnect({ subject: 'me' })
  t.match(await ended, { code: 3503, reason: 'disconnected' })
  await until(() => second.fastify.pgws.channels().length === 0)
})

t.test('closes a client that does not read, without delaying others', async (t) => {
  const dbUri = await database()
  const { ws, http, fastify } = await build(t, { dbUri, migrate: true, maxBufferedBytes: 50_000 })
  const slow = await open(t, `${ws}/connection/websocket`)
  slow.send(`${JSON.stringify({ id: 1, connect: { token: rw() } })}\n{"id":2,"subscribe":{"channel":"a"}}`)
  await slow.received(2)
  const client = sdk(t, ws, { token: rw() })
  const { subscription, got } = subscribed(client, 'a')
  client.connect()
  await subscription.ready(30_000)
  const closed = slow.closed()
  slow.webSocket.pause()
  const large = 'x'.repeat(500_000)
  for (let i = 0; i < 30; i++) await fastify.pgws.publish('a', `${i}${large}`)
  await until(() => got.length === 30)
  const metrics = await (await fetch(`${http}/metrics`)).text()
  t.match(metrics, /pgws_slow_closes_total 1\n/)
  slow.webSocket.resume()
  t.match(await closed, { code: 3008, reason: 'slow' })
})

t.test('presence: members, joins and leaves of all nodes and protocols', async (t) => {
  const dbUri = await database()
  const [first, second] = [
    await build(t, { dbUri, presenceChannels: 'room:*' }),
    await build(t, { dbUri, presenceChannels: 'room:*' })
  ]
  const client = sdk(t, first.ws, { token: rw({ info: { name: 'Me' } }) })
  const here = subscribed(client, 'room:a', { joinLeave: true })
  const events: [string, string][] = []
  here.subscription.on('join', ({ info }) => events.push(['join', info.user]))
  here.subscription.on('leave', ({ info }) => events.push(['leave', info.user]))
  client.connect()
  await here.subscription.ready(30_000)
  await until(() => events.length === 1)
  const other = sdk(t, second.ws, { token: rw({ sub: 'other' }) })
  const there = subscribed(other, 'room:a')
  other.connect()
  await there.subscription.ready(30_000)
  // The list has those that its node knows; others follow.
  await until(async () => (await second.fastify.pgws.presence('room:a')).count === 2)
  const socket = await open(t, `${second.ws}/room%3Aa/${rw({ sub: 'raw' })}?presence=true`)
  await until(() => events.length === 3)
  const { clients } = await there.subscription.presence()
  t.same(
    Object.values(clients)
      .map(({ user }) => user)
      .sort(),
    ['me', 'other', 'raw']
  )
  const mine = Object.values(clients).find(({ user }) => user === 'me')!
  t.match(mine, { client: /^[0-9a-f]{16}-\d+$/, connInfo: { name: 'Me' } })
  t.match(await here.subscription.presenceStats(), { numClients: 3, numUsers: 3 })
  t.match(JSON.parse((await socket.received(1))[0]!), {
    event: 'Presence',
    payload: { clients: { length: 3 } }
  })
  here.subscription.unsubscribe()
  await socket.received(2)
  t.match(JSON.parse(socket.messages[1]!), { event: 'Leave', payload: { user: 'me' } })
  here.subscription.subscribe()
  await until(() => events.filter(([event, user]) => event === 'join' && user === 'me').length === 2)
  other.disconnect()
  socket.webSocket.close()
  await until(() => events.filter(([event]) => event === 'leave').length === 2)
  t.same(
    events
      .filter(([, user]) => user !== 'me')
      .map(([event, user]) => `${user} ${event}s`)
      .sort(),
    ['other joins', 'other leaves', 'raw joins', 'raw leaves']
  )
  await t.rejects(client.presence('elsewhere'), { code: 108 })
  t.equal((await first.fastify.pgws.presence('room:a')).count, 1)
})
