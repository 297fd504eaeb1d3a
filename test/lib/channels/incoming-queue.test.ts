import t, { type Test } from 'tap'
import { channelHash } from '../../../lib/bus/index.js'
import { ChannelOrder } from '../../../lib/channels/incoming/channel-order.js'
import { IncomingQueue } from '../../../lib/channels/incoming/incoming-queue.js'
import type { Message } from '../../../lib/messages/message.js'
import { messageId, type Reference, storedMessage } from '../../../lib/messages/notification-payload.js'

t.test('the floor stays below a message that waits for its row', async (t) => {
  const delivered: (number | undefined)[] = []
  let answer = () => {}
  const rows = new Promise<void>((resolve) => {
    answer = resolve
  })
  const rowOf = (position: number) => storedMessage('0000000e', position, 'a', '{"payload":1}')
  const inbox = new IncomingQueue({
    listenChannel: 'listen',
    deliver: ({ position }) => delivered.push(position),
    wanted: () => true,
    resolve: async (references: readonly Reference[]) => {
      await rows
      return new Map<Reference, Message>(references.map((one) => [one, rowOf(one.position)]))
    },
    onMessage() {},
    onLost: (reason) => t.fail(reason),
    onGap: () => t.fail('nothing is missing'),
    replays: true
  })
  const hear = (position: number) =>
    inbox.receive(`{"id":"${messageId('0000000e', position)}","channel":"a","payload":1}`)
  inbox.startAt(10)
  hear(11)
  inbox.receive('{"pgws":"message","position":12,"channel":"a"}')
  hear(13)
  inbox.mark()
  t.notOk(inbox.prove(13))
  t.equal(inbox.floor, 10)
  answer()
  await new Promise((resolve) => setImmediate(resolve))
  t.same(delivered, [11, 12, 13])
  t.ok(inbox.prove(13))
  t.equal(inbox.floor, 11)
  inbox.mark()
  t.ok(inbox.prove(13))
  t.equal(inbox.floor, 13)
})

t.test(
  'what a beat confirms while it is read from the database is not delivered a second time',
  async (t) => {
    const delivered: (number | undefined)[] = []
    const order = new ChannelOrder()
    const queue = new IncomingQueue({
      listenChannel: 'listen',
      deliver: ({ position }) => delivered.push(position),
      wanted: () => true,
      resolve: async () => new Map(),
      onMessage() {},
      onLost: (reason) => t.fail(reason),
      onGap: () => t.fail('nothing is missing'),
      replays: true,
      order
    })
    const message = storedMessage('0000000e', 11, 'a', '{"channel":"a","payload":1}')
    queue.startAt(10)
    order.join('a')
    order.joined('a', 10)
    queue.beat({ number: 1, from: 10, to: 10, channels: [] })
    queue.receiveAnnounced({ channel: 'a', position: 11, previous: 10, beat: 1, text: message.text })
    queue.beat({ number: 2, from: 10, to: 11, channels: [[channelHash('a'), 11]] })
    queue.replay(message)
    t.same(delivered, [11])
  }
)

/** A server with a bus, which has received everything up to position 10 over it. */
function withBus(t: Test) {
  const delivered: (number | undefined)[] = []
  let gaps = 0
  const order = new ChannelOrder()
  const queue = new IncomingQueue({
    listenChannel: 'listen',
    deliver: ({ position }) => delivered.push(position),
    wanted: () => true,
    resolve: async () => new Map(),
    onMessage() {},
    onLost: (reason) => t.fail(reason),
    onGap: () => {
      gaps++
    },
    replays: true,
    order
  })
  queue.startAt(8)
  order.join('a')
  order.joined('a', 8)
  queue.beat({ number: 1, from: 8, to: 10, channels: [] })
  return {
    queue,
    order,
    delivered,
    gaps: () => gaps,
    announce: (previous: number, first: number, last: number) =>
      queue.announce({ previous, first, last, missing: new Set() }),
    notify: (position: number) =>
      queue.receive(`{"id":"${messageId('0000000e', position)}","channel":"a","payload":1}`)
  }
}

t.test(
  'a late beat of the bus hides no gap after the sequencer has changed to a server without it',
  async (t) => {
    const { queue, delivered, gaps, announce, notify } = withBus(t)
    announce(10, 11, 13)
    notify(11)
    queue.beat({ number: 2, from: 10, to: 10, channels: [] })
    t.equal(gaps(), 0)
    // 12 is lost.
    notify(13)
    t.equal(gaps(), 1)
    t.same(delivered, [11])
  }
)

t.test(
  'a notification whose announcement is lost is not delivered before what is late over the bus',
  async (t) => {
    const { delivered, gaps, notify } = withBus(t)
    // 11 is on its way over the bus. Then the sequencer changes to a server without it.
    notify(12)
    t.equal(gaps(), 1)
    t.same(delivered, [])
  }
)

t.test('what is older than the readers of a channel of the bus is not replayed to them', async (t) => {
  const { queue, order, delivered } = withBus(t)
  order.join('b')
  // A client that resumes has read up to here by itself.
  order.joined('b', 12)
  for (const position of [11, 12, 13]) {
    queue.replay(storedMessage('0000000e', position, 'b', '{"channel":"b","payload":1}'))
  }
  t.same(delivered, [13])
})
