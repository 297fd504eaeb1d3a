import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { connect } from '@nats-io/transport-node'
import t from 'tap'
import { Subjects } from '../../lib/bus/nats-wire.js'
import { until } from '../support/helper.js'
import { NatsServer, natsCluster } from '../support/nats.js'
import { busBefore, busOf } from '../support/nats-bus.js'
import { root } from '../support/root.js'

const announcement = (channel: string, position: number, text?: string) => ({
  channel,
  position,
  previous: position - 1,
  beat: 0,
  text: text ?? `text ${position}`
})

t.test(
  'a node receives beats, and announcements for the channels that it has joined, in order',
  async (t) => {
    const server = await NatsServer.start(t)
    const one = await busOf(t, server)
    const other = await busOf(t, server)
    t.ok(one.bus.up)
    await one.bus.join('a')
    await Promise.all([other.bus.join('a'), other.bus.join('b')])
    const batch = Array.from({ length: 1000 }, (_, index) => announcement(index % 2 ? 'b' : 'a', index + 1))
    const beat = { number: 7, from: 0, to: 1000, channels: [[1, 999] as const, [2 ** 32 - 1, 1000] as const] }
    await one.bus.announce(batch, beat)
    await until(() => one.count('beat') === 1 && other.count('beat') === 1)
    t.same(other.heard, [...batch.map((announced) => ({ announced })), { beat }])
    const ofA = batch.filter(({ channel }) => channel === 'a')
    t.same(one.heard, [...ofA.map((announced) => ({ announced })), { beat }])
  }
)

t.test('a node receives nothing of channels that it has not joined, or has left', async (t) => {
  const server = await NatsServer.start(t)
  const one = await busOf(t, server)
  const other = await busOf(t, server)
  const own = (await server.subscriptions()).get(`fastify-pg-websockets ${one.node}`)!
  const channels = Array.from({ length: 100 }, (_, index) => `channel ${index}`)
  await Promise.all(channels.map((channel) => one.bus.join(channel)))
  t.equal((await server.subscriptions()).get(`fastify-pg-websockets ${one.node}`), own + 100)
  for (const channel of channels) if (channel !== 'channel 7') one.bus.leave(channel)
  const { out_msgs: before } = await server.monitor()
  const announced = channels.map((channel, index) => announcement(channel, index + 1))
  await other.bus.announce(announced, { number: 1, from: 0, to: 100, channels: [] })
  await until(() => one.count('beat') === 1 && other.count('beat') === 1)
  t.same(one.texts(), ['text 8'])
  t.equal((await server.subscriptions()).get(`fastify-pg-websockets ${one.node}`), own + 1)
  t.equal((await server.monitor()).out_msgs - before, 3, 'one message and two beats')
  one.bus.leave('channel 7')
  await one.bus.join('channel 7')
  await other.bus.announce([announcement('channel 7', 101)])
  await until(() => one.texts().length === 2)
  t.same(one.texts(), ['text 8', 'text 101'], 'after it has joined again, once')
})

t.test(
  'a node can send to all nodes, to one, or to those that joined a channel, and to itself',
  async (t) => {
    const server = await NatsServer.start(t)
    const one = await busOf(t, server)
    const two = await busOf(t, server)
    const three = await busOf(t, server)
    await Promise.all([one.bus.join('a'), two.bus.join('a')])
    await one.bus.tell('all', ['all 1', 'all 2'])
    await one.bus.tell({ node: two.node }, ['two'])
    await one.bus.tell({ node: one.node }, ['one'])
    await one.bus.tell({ channel: 'a' }, ['a', ''])
    await one.bus.tell('all', ['end \u{1F600}\r\n'])
    const all = [one, two, three]
    await until(() => all.every(({ told }) => told().at(-1) === 'end \u{1F600}\r\n'))
    const others = ['all 1', 'all 2', 'end \u{1F600}\r\n']
    // Texts to different audiences have no order.
    t.same(one.told().sort(), [...others, 'one', 'a', ''].sort())
    t.same(two.told().sort(), [...others, 'two', 'a', ''].sort())
    t.same(three.told(), others)
  }
)

t.test('channels can have any name', async (t) => {
  const server = await NatsServer.start(t)
  const one = await busOf(t, server)
  const other = await busOf(t, server)
  const long = 'x'.repeat(1024)
  const names = [
    '.',
    '*',
    '>',
    'a.*',
    'a.>',
    'a b',
    ' ',
    '\r\n',
    '"',
    '#',
    'ä',
    'A\u0308',
    '\u{1F600}'.repeat(256),
    long
  ]
  for (const name of [...names, 'a', 'a.b', `${long.slice(1)}y`]) await one.bus.join(name)
  for (const [index, name] of names.entries()) {
    await other.bus.announce([announcement(name, index + 1, name)])
    await other.bus.tell({ channel: name }, [name])
  }
  await until(() => one.told().length === names.length)
  t.same(one.texts(), names)
  t.same(one.told(), names)
  t.same(
    one.heard.flatMap((heard) => ('announced' in heard ? [heard.announced.channel] : [])),
    names
  )
})

t.test("a message above the server's max_payload is announced without its text", async (t) => {
  const server = await NatsServer.start(t, 'max_payload: 20000')
  const { bus, heard, count } = await busOf(t, server)
  await bus.join('a')
  const channels = Array.from({ length: 3000 }, (_, index) => [index, index + 1] as const)
  const small = announcement('a', 1, 'x'.repeat(15_000))
  await bus.announce(
    [small, announcement('a', 2, 'x'.repeat(20_000)), announcement('a', 3, 'ä'.repeat(10_000))],
    {
      number: 1,
      from: 0,
      to: 3000,
      channels
    }
  )
  await until(() => heard.some((one) => 'beat' in one && one.beat.to === 3000))
  t.same(heard.slice(0, 3), [
    { announced: small },
    { announced: { ...announcement('a', 2), text: undefined } },
    { announced: { ...announcement('a', 3), text: undefined } }
  ])
  t.ok(count('beat') > 1, 'a long beat is split')
  t.same(
    heard.flatMap((one) => ('beat' in one ? one.beat.channels : [])),
    channels
  )
})

t.test('messages that no node has sent change nothing', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, heard, count } = await busOf(t, server)
  await bus.join('a')
  const stranger = await connect({ servers: `127.0.0.1:${server.port}` })
  t.teardown(() => stranger.close())
  const subjects = new Subjects('pgws.test')
  for (const subject of [subjects.beats, subjects.all, subjects.channel('a')]) {
    for (const text of [
      '',
      'x',
      'm',
      'm2 1',
      'm1 1 x',
      'b',
      'b1',
      'b2 1',
      'b1 2 x:y:z',
      'r1 2',
      '\0',
      '{"a":1}'
    ]) {
      stranger.publish(subject, text)
    }
    stranger.publish(subject, Buffer.from([0xff, 0xfe, 0x00]))
  }
  await stranger.flush()
  await bus.announce([announcement('a', 1)], { number: 1, from: 0, to: 1, channels: [] })
  await until(() => count('beat') === 1)
  t.same(heard, [{ announced: announcement('a', 1) }, { beat: { number: 1, from: 0, to: 1, channels: [] } }])
})

t.test('logs the error of a handler, and the bus continues', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, lines } = busBefore(t, server)
  const heard: string[] = []
  const nothing = () => {}
  await bus.start({
    announced: nothing,
    beat: nothing,
    told: (text) => {
      heard.push(text)
      throw new Error('a broken handler')
    },
    interrupted: nothing,
    restored: nothing
  })
  await bus.tell('all', ['1', '2'])
  await until(() => heard.length === 2)
  t.ok(bus.up)
  t.match(lines, [/could not be handled.*a broken handler/, /could not be handled/])
})

t.test('after the server was killed, the bus rejoins its channels, and sends nothing old', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, count, texts, told } = await busOf(t, server)
  await bus.join('a')
  await server.kill()
  await until(() => count('interrupted') === 1)
  t.notOk(bus.up)
  const unavailable = { code: 'FST_PGWS_NODES_UNAVAILABLE', message: /^(?!.*127\.0\.0\.1)/ }
  await t.rejects(bus.announce([announcement('a', 1, 'lost')]), unavailable)
  await t.rejects(bus.tell('all', ['lost']), unavailable)
  await bus.join('b')
  bus.leave('never joined')
  await server.start()
  await until(() => count('restored') === 1)
  t.ok(bus.up)
  await bus.announce([announcement('a', 1, 'to a'), announcement('b', 2, 'to b')])
  await bus.tell('all', ['told'])
  await until(() => told().length === 1)
  t.same(texts(), ['to a', 'to b'])
  t.same(told(), ['told'])
  t.equal(count('interrupted'), 1)
})

t.test('an announcement that the server does not confirm is rejected', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, count, texts } = await busOf(t, server)
  await bus.join('a')
  await server.pause()
  const [announced, joined] = [bus.announce([announcement('a', 1)]), bus.join('b')]
  await t.rejects(announced, { code: 'FST_PGWS_NODES_UNAVAILABLE' })
  await joined
  t.equal(count('interrupted'), 1)
  await t.rejects(bus.announce([announcement('a', 1)]), { code: 'FST_PGWS_NODES_UNAVAILABLE' })
  server.continue()
  await until(() => count('restored') === 1)
  await bus.announce([announcement('a', 1), announcement('b', 2)])
  await until(() => texts().length === 2)
  t.same(texts(), ['text 1', 'text 2'])
})

t.test('joins 20,000 channels together, and rejoins them after the server was killed', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, node, count, texts } = await busOf(t, server)
  const channels = Array.from({ length: 20_000 }, (_, index) => `channel ${index}`)
  const { in_msgs: before } = await server.monitor()
  await Promise.all(channels.map((channel) => bus.join(channel)))
  const subscribed = async () => (await server.subscriptions()).get(`fastify-pg-websockets ${node}`)!
  t.ok((await subscribed()) >= 20_000)
  t.equal((await server.monitor()).in_msgs, before, 'joining publishes nothing')
  await server.restart()
  await until(() => count('interrupted') === 1)
  let turns = 0
  while (count('restored') === 0) {
    await nextTurn()
    turns++
  }
  t.ok(turns > 20, 'everything else has its turns meanwhile')
  t.ok((await subscribed()) >= 20_000)
  await bus.announce(channels.map((channel, index) => announcement(channel, index + 1)))
  await until(() => texts().length === 20_000)
  t.same(
    texts(),
    channels.map((_, index) => `text ${index + 1}`)
  )
})

t.test('joins and leaves during a reconnection take effect', async (t) => {
  const server = await NatsServer.start(t)
  const one = await busOf(t, server)
  const other = await busOf(t, server)
  const channels = Array.from({ length: 5000 }, (_, index) => `channel ${index}`)
  await Promise.all(channels.map((channel) => one.bus.join(channel)))
  await server.restart()
  await until(() => one.count('interrupted') === 1)
  const joined: Promise<void>[] = []
  for (let n = 0; one.count('restored') === 0; n++) {
    if (n % 10 === 0 && n < 10_000) {
      joined.push(one.bus.join(`late ${n}`))
      one.bus.leave(`channel ${n / 10}`)
    }
    await nextTurn()
  }
  await Promise.all(joined)
  await until(() => other.bus.up)
  const late = joined.map((_, index) => `late ${index * 10}`)
  const left = new Set(joined.map((_, index) => `channel ${index}`))
  const all = [...channels, ...late]
  await other.bus.announce(
    all.map((channel, index) => announcement(channel, index + 1, channel)),
    { number: 1, from: 0, to: 20_000, channels: [] }
  )
  await until(() => one.count('beat') === 1)
  const expected = all.filter((channel) => !left.has(channel))
  t.ok(late.length > 0)
  t.same(one.texts().sort(), expected.sort())
})

t.test('the server disconnects a node that does not read, and the node reconnects', async (t) => {
  const server = await NatsServer.start(t, 'write_deadline: "1s"\nmax_pending: 2097152')
  const { bus, texts } = await busOf(t, server)
  const child = fork(join(root, 'dist/test/support/nats-node.js'), [server.url, 'pgws.test', 'a'])
  t.teardown(() => child.kill('SIGKILL'))
  const said: string[] = []
  child.on('message', (text: string) => said.push(text))
  await until(() => said.includes('joined'))
  process.kill(child.pid!, 'SIGSTOP')
  const text = 'x'.repeat(100_000)
  let position = 0
  while ((await server.monitor()).slow_consumers === 0) {
    await bus.announce(Array.from({ length: 20 }, () => announcement('a', ++position, text)))
  }
  t.ok(bus.up, 'nobody else is cut off')
  process.kill(child.pid!, 'SIGCONT')
  await until(() => said.includes('restored'))
  t.ok(said.indexOf('interrupted') > said.indexOf('joined'))
  t.notOk(said.includes(`announced ${position}`), 'messages were lost')
  await bus.announce([announcement('a', ++position, 'after')])
  await until(() => said.includes(`announced ${position}`))
  t.same(texts(), [], 'this node has not joined the channel')
  child.disconnect()
  await once(child, 'exit')
})

t.test('in a cluster, nodes continue with another server when theirs is killed', async (t) => {
  const servers = await natsCluster(t)
  const urls = servers.map(({ url }) => url)
  const one = await busOf(t, servers[0]!, { servers: urls })
  const [first] = await Promise.all(
    servers.map(async (server) => ({ server, own: (await server.subscriptions()).size > 0 }))
  ).then((all) => all.filter(({ own }) => own))
  const elsewhere = servers.filter((server) => server !== first!.server)
  const other = await busOf(t, elsewhere[0]!)
  await one.bus.join('a')
  // A server tells others of a subscription without waiting for them. What is missed until then is read from the database.
  let position = 0
  await until(async () => {
    await other.bus.announce([announcement('a', ++position)])
    return one.texts().length > 0
  })
  await first!.server.kill()
  await until(() => one.count('restored') === 1)
  const heard = one.texts().length
  await until(async () => {
    await other.bus.announce([announcement('a', ++position)])
    return one.texts().length > heard
  })
  t.equal(other.count('interrupted'), 0)
})

t.test('the bus moves to another prefix when it changes', async (t) => {
  const server = await NatsServer.start(t)
  let prefix = 'pgws.one'
  const one = await busOf(t, server, { prefix: () => prefix })
  const other = await busOf(t, server, { prefix: () => 'pgws.two' })
  await one.bus.join('a')
  await one.bus.refresh()
  t.equal(one.count('interrupted'), 0, 'the same prefix changes nothing')
  await other.bus.announce([announcement('a', 1, 'not heard')])
  prefix = 'pgws.two'
  await one.bus.refresh()
  t.equal(one.count('interrupted'), 1)
  await until(() => one.count('restored') === 1)
  await other.bus.announce([announcement('a', 2, 'heard')])
  await until(() => one.texts().length === 1)
  t.same(one.texts(), ['heard'])
})

t.test('the last messages before a close arrive, and a closed bus sends nothing', async (t) => {
  const server = await NatsServer.start(t)
  const one = await busOf(t, server)
  const other = await busOf(t, server)
  await one.bus.tell('all', ['goodbye'])
  await one.bus.close()
  await until(() => other.told().length === 1)
  t.notOk(one.bus.up)
  const before = one.heard.length
  await other.bus.tell('all', ['still there'])
  await until(() => other.told().length === 2)
  await server.kill()
  await until(() => other.count('interrupted') === 1)
  t.equal(one.heard.length, before)
  await one.bus.close()
})
