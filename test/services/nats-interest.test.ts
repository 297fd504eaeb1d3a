import t, { type Test } from 'tap'
import { notify, open, query, sqlListener, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { health, isJoined, leads, natsNode, natsProxy, subjectOf } from '../support/nats-nodes.js'
import { sdk, subscribed } from '../support/sdk.js'

const { migrated } = await withPostgres(t)
const nats = await NatsServer.start(t)
const reader = (...channels: string[]) => token({ mode: 'r', channels })
const rw = token({ mode: 'rw' })

/** A server that notes on which subjects it gets messages. */
async function counted(t: Test, dbUri: string) {
  const proxy = await natsProxy(t, nats)
  const subjects: string[] = []
  proxy.drop = (subject) => {
    subjects.push(subject)
    return false
  }
  const app = await natsNode(t, proxy, { dbUri })
  /** How many messages came for a channel. */
  const count = (channel: string) => subjects.filter((subject) => subject.endsWith(subjectOf(channel))).length
  return { app, subjects, count }
}

for (const pattern of ['kept-*', 'passing-*']) {
  t.test(`a server receives only messages of channels that its clients joined: ${pattern}`, async (t) => {
    const dbUri = await migrated('kept-*')
    const name = (n: number) => pattern.replace('*', String(n))
    const publish = (channel: string, count: number) =>
      query(dbUri, 'select pgws.publish_text($1, n::text) from generate_series(1, $2::int) n', [
        channel,
        count
      ])
    // It is the sequencer, and has no clients.
    const idle = await counted(t, dbUri)
    await leads(idle.app)
    const one = await counted(t, dbUri)
    const two = await counted(t, dbUri)
    const first = await open(t, `${one.app.ws}/${reader(name(0), name(1))}`)
    const client = sdk(t, two.app.ws, { token: token({ mode: 'r' }) })
    client.connect()
    const second = subscribed(client, name(1))
    await second.subscription.ready(60_000)
    // Several clients of one server are no more than one for NATS.
    const third = await open(t, `${two.app.ws}/${reader(name(1))}`)
    for (let n = 0; n < 4; n++) await publish(name(n), 50)
    await first.received(100)
    await third.received(50)
    await until(() => second.got.length === 50)
    const counts = ({ count }: typeof one) => [0, 1, 2, 3].map((n) => count(name(n)))
    t.same(counts(one), [50, 50, 0, 0])
    t.same(counts(two), [0, 50, 0, 0])
    t.same(counts(idle), [0, 0, 0, 0])
    const subscribedTo = (await nats.clients()).flatMap(({ subscriptions_list: all = [] }) =>
      all.filter((subject) => subject.includes('.m.'))
    )
    const joined = [0, 1, 1].map((n) => subjectOf(name(n)))
    t.same(subscribedTo.map((subject) => subject.slice(subject.indexOf('.m.'))).sort(), joined.sort())

    // A server whose last client of a channel has left gets no more of it.
    first.webSocket.close()
    await until(async () => !(await isJoined(nats, name(0))))
    await publish(name(0), 10)
    await publish(name(1), 10)
    await third.received(60)
    t.same(counts(one), [50, 50, 0, 0])
    // And one that comes back gets everything again.
    const again = await open(t, `${one.app.ws}/${reader(name(0))}`)
    await publish(name(0), 10)
    await again.received(10)
    t.equal(one.count(name(0)), 60)
  })
}

t.test('notifications on the listen channel reach the clients of all servers', async (t) => {
  const dbUri = await migrated()
  const apps = [await natsNode(t, nats, { dbUri }), await natsNode(t, nats, { dbUri })]
  const clients = await Promise.all(apps.map(({ ws }) => open(t, `${ws}/${reader('a')}`)))
  for (let n = 0; n < 20; n++) await notify(dbUri, JSON.stringify({ channel: 'a', payload: n }))
  for (const client of clients) {
    const payloads = (await client.received(20)).map((text) => JSON.parse(text).payload)
    t.same(
      payloads,
      Array.from({ length: 20 }, (_, n) => n)
    )
  }
  for (const { messages } of clients) t.equal(messages.length, 20)
})

/** Sends on a channel that nobody retains. Answers with what SQL listeners got, and the clients of two servers. */
async function send(t: Parameters<typeof sqlListener>[0], options: object) {
  const dbUri = await migrated('kept')
  const apps = [
    await natsNode(t, nats, { dbUri, ...options }),
    await natsNode(t, nats, { dbUri, ...options })
  ]
  const listener = await sqlListener(t, dbUri)
  const clients = await Promise.all(apps.map(({ ws }) => open(t, `${ws}/a/${rw}`)))
  for (let n = 0; n < 20; n++) clients[n % 2]!.send(`${n}`)
  const [first, second] = clients as [(typeof clients)[0], (typeof clients)[0]]
  await Promise.all([first.received(20), second.received(20)])
  t.same(second.messages, first.messages, 'in one order')
  // What comes behind it has come through the same connections.
  await notify(dbUri, JSON.stringify({ channel: 'a', payload: 'the end' }))
  await Promise.all([first.received(21), second.received(21)])
  const payloads = first.messages.map((text) => JSON.parse(text).payload)
  t.equal(payloads.length, 21)
  t.same(payloads.slice(0, 20).sort(), Array.from({ length: 20 }, (_, n) => `${n}`).sort())
  await until(() => listener.payloads.some((payload) => payload.includes('the end')))
  return listener.payloads.slice(0, -1).map((payload) => JSON.parse(payload).payload as string)
}

t.test('SQL listeners receive what clients send once, and so do clients', async (t) => {
  const heard = await send(t, {})
  t.same(heard.sort(), Array.from({ length: 20 }, (_, n) => `${n}`).sort())
})

t.test('with notifySql false, SQL listeners receive nothing from clients', async (t) => {
  t.same(await send(t, { notifySql: false }), [])
})

t.test('a server that receives a message over the bus needs no notification', async (t) => {
  const dbUri = await migrated('kept')
  const listener = await sqlListener(t, dbUri)
  const app = await natsNode(t, nats, { dbUri })
  await leads(app)
  const client = await open(t, `${app.ws}/${reader('kept', 'passing')}`)
  const sender = await open(t, `${app.ws}/kept/${rw}`)
  await query(dbUri, `select pgws.publish_text('kept', 'x'), pgws.publish_text('passing', 'x')`)
  sender.send('y')
  await client.received(3)
  await notify(dbUri, 'the end')
  await until(() => listener.payloads.includes('the end'))
  t.same(listener.payloads, ['the end'])
})

t.test('messages that are too large for NATS arrive, too', async (t) => {
  const dbUri = await migrated('kept')
  const small = await NatsServer.start(t, 'max_payload: 65536')
  const maxMessageBytes = 8 * 2 ** 20
  const options = { dbUri, maxMessageBytes, maxBufferedBytes: 4 * maxMessageBytes }
  const apps = [await natsNode(t, small, options), await natsNode(t, small, options)]
  const clients = await Promise.all(apps.map(({ ws }) => open(t, `${ws}/${reader('kept', 'passing')}`)))
  const senders = {
    kept: await open(t, `${apps[0]!.ws}/kept/${rw}`),
    passing: await open(t, `${apps[0]!.ws}/passing/${rw}`)
  }
  const sizes = [10, 7000, 9000, 60_000, 65_000, 65_536, 70_000, 2 ** 20, 3 * 2 ** 20, 10]
  for (const channel of ['kept', 'passing'] as const) {
    for (const size of sizes) {
      await query(dbUri, `select pgws.publish_text($1, repeat('x', $2::int))`, [channel, size])
      senders[channel].send('y'.repeat(size))
    }
  }
  for (const client of clients) {
    const messages = (await client.received(4 * sizes.length)).map((text) => JSON.parse(text))
    t.equal(messages.length, 4 * sizes.length)
    for (const channel of ['kept', 'passing']) {
      for (const letter of ['x', 'y']) {
        const lengths = messages
          .filter((one) => one.channel === channel && one.payload[0] === letter)
          .map(({ payload }) => payload.length)
        t.same(lengths, sizes, `${channel}, ${letter}`)
      }
    }
  }
})

t.test('publishing returns to how many clients of all servers it was delivered', async (t) => {
  const dbUri = await migrated('kept')
  const apps = [
    await natsNode(t, nats, { dbUri }),
    await natsNode(t, nats, { dbUri }),
    await natsNode(t, nats, { dbUri })
  ]
  await until(async () => {
    const answers = await Promise.all(apps.map(({ fastify }) => fastify.pgws.nodes()))
    return answers.every(({ length }) => length === 3)
  })
  const clients = [
    await open(t, `${apps[0]!.ws}/${reader('kept', 'passing')}`),
    await open(t, `${apps[0]!.ws}/${reader('kept')}`),
    await open(t, `${apps[1]!.ws}/${reader('kept', 'passing')}`)
  ]
  const headers = { authorization: `Bearer ${rw}`, 'content-type': 'application/json' }
  const post = async (app: (typeof apps)[0], body: object) => {
    const answer = await fetch(`${app.http}/publish`, { method: 'POST', headers, body: JSON.stringify(body) })
    return { status: answer.status, ...((await answer.json()) as { delivered: number; nodes: number }) }
  }
  // The third has no client of these channels, and answers, too.
  for (const app of apps) {
    t.match(await post(app, { channel: 'kept', payload: 1, confirm: true }), {
      status: 200,
      delivered: 3,
      nodes: 3
    })
    t.match(await post(app, { channel: 'passing', payload: 1, confirm: true }), {
      status: 200,
      delivered: 2,
      nodes: 3
    })
    t.match(await post(app, { channel: 'nobody', payload: 1, confirm: true }), {
      status: 200,
      delivered: 0,
      nodes: 3
    })
  }
  t.equal(clients[0]!.messages.length, 6)
  const confirmations = await Promise.all(
    Array.from({ length: 50 }, (_, n) => apps[n % 3]!.fastify.pgws.publish('kept', n, {}, { confirm: true }))
  )
  for (const confirmation of confirmations) t.match(confirmation, { delivered: 3, nodes: 3, missing: [] })
  await clients[1]!.received(53)
})

t.test('a confirmed publication counts the readers of raw channels, too', async (t) => {
  const dbUri = await migrated('kept')
  const ways = [await natsProxy(t, nats), await natsProxy(t, nats)]
  const apps = await Promise.all(ways.map((way) => natsNode(t, way, { dbUri, rawChannels: 'raw*' })))
  const [first, second] = apps as [(typeof apps)[0], (typeof apps)[0]]
  const meet = () => until(() => apps.every(({ fastify }) => fastify.pgws.nodes().length === 2))
  await meet()
  const everything = reader('kept', 'passing', 'large', 'raw')
  const client = await open(t, `${first.ws}/${everything}`)
  await open(t, `${second.ws}/${everything}`)
  await open(t, `${second.ws}/${reader('raw')}`)
  const batch = (round: number) => [
    { channels: ['raw'], payload: `first ${round}` },
    { channels: ['large'], payload: `${round} ${'x'.repeat(20_000)}` },
    { channels: ['kept', 'passing', 'nobody'], payload: round },
    { channels: ['raw', 'raw nobody'], payload: `last ${round}` }
  ]
  let noise = 0
  const noisy = setInterval(() => {
    for (const channel of ['raw', 'kept', 'passing']) {
      second.fastify.pgws.publish(channel, `noise ${noise++}`).catch(() => {})
    }
  }, 2)
  t.teardown(() => clearInterval(noisy))
  const confirm = { confirm: true } as const
  for (let round = 0; round < 10; round++) {
    const confirmations = await Promise.all(
      apps.flatMap(({ fastify: { pgws } }) => [
        pgws.publish('raw', `alone ${round}`, {}, confirm),
        pgws.publish('raw nobody', round, {}, confirm),
        pgws.publishAll(batch(round), {}, confirm)
      ])
    )
    for (const [index, confirmation] of confirmations.entries()) {
      t.same(confirmation, { delivered: [3, 0, 12][index % 3], nodes: 2, missing: [] })
    }
  }
  clearInterval(noisy)
  t.ok(noise > 0)

  const [, other] = first.fastify.pgws.nodes()
  // Without its bus, a server publishes all the same, and does not know what the others have delivered.
  ways[0]!.mode = 'refuse'
  ways[0]!.cut()
  await until(async () => (await health(first)).status === 'degraded')
  const confirmation = await first.fastify.pgws.publish('kept', 'away', {}, confirm)
  t.match(confirmation, { nodes: 1, missing: [other!.id] })
  await until(() => client.messages.some((text) => text.includes('away')))
})

t.test('databases that were made from one template share NATS, and hear nothing of each other', async (t) => {
  const dbUris = [await migrated('kept'), await migrated('kept')]
  const apps = await Promise.all(dbUris.map((dbUri) => natsNode(t, nats, { dbUri })))
  const clients = await Promise.all(apps.map(({ ws }) => open(t, `${ws}/${reader('kept', 'passing')}`)))
  for (const [n, dbUri] of dbUris.entries()) {
    await query(dbUri, `select pgws.publish_text(c, $1) from unnest(array['kept', 'passing']) c`, [`of ${n}`])
  }
  for (const [n, client] of clients.entries()) {
    await client.received(2)
    await query(dbUris[n]!, `select pgws.publish_text('kept', 'the end')`)
    const payloads = (await client.received(3)).map((text) => JSON.parse(text).payload)
    t.same(payloads, [`of ${n}`, `of ${n}`, 'the end'])
    t.equal((await apps[n]!.fastify.pgws.nodes()).length, 1)
  }
})
