import { connect } from '@nats-io/transport-node'
import t from 'tap'
import { Subjects } from '../../lib/bus/nats-wire.js'
import { until } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { announcement, busBefore, busOf } from '../support/nats-bus.js'

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
    await one.bus.send('all', ['all 1', 'all 2'])
    await one.bus.send({ node: two.node }, ['two'])
    await one.bus.send({ node: one.node }, ['one'])
    await one.bus.send({ channel: 'a' }, ['a', ''])
    await one.bus.send('all', ['end \u{1F600}\r\n'])
    const all = [one, two, three]
    await until(() => all.every(({ received }) => received().at(-1) === 'end \u{1F600}\r\n'))
    const others = ['all 1', 'all 2', 'end \u{1F600}\r\n']
    // Texts to different audiences have no order.
    t.same(one.received().sort(), [...others, 'one', 'a', ''].sort())
    t.same(two.received().sort(), [...others, 'two', 'a', ''].sort())
    t.same(three.received(), others)
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
    await other.bus.send({ channel: name }, [name])
  }
  await until(() => one.received().length === names.length)
  t.same(one.texts(), names)
  t.same(one.received(), names)
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
    received: (text) => {
      heard.push(text)
      throw new Error('a broken handler')
    },
    interrupted: nothing,
    restored: nothing
  })
  await bus.send('all', ['1', '2'])
  await until(() => heard.length === 2)
  t.ok(bus.up)
  t.match(lines, [/could not be handled.*a broken handler/, /could not be handled/])
})
