import t from 'tap'
import { channelHash } from '../../../lib/bus/index.js'
import { ChannelOrder } from '../../../lib/channels/index.js'

function joined(...channels: string[]): ChannelOrder {
  const order = new ChannelOrder()
  order.restart(10)
  order.covered({ beat: 0 })
  for (const channel of channels) {
    order.join(channel)
    order.joined(channel, 10)
  }
  return order
}

t.test('the next message of a channel follows on the last one that was heard', async (t) => {
  const order = joined('a', 'b')
  t.equal(order.placeOf({ channel: 'a', position: 12, previous: 10, beat: 0 }), 'next')
  order.arrived('a', 12)
  t.equal(order.placeOf({ channel: 'a', position: 12, previous: 10, beat: 0 }), 'known', 'announced twice')
  t.equal(order.placeOf({ channel: 'a', position: 15, previous: 12, beat: 0 }), 'next')
  t.equal(order.placeOf({ channel: 'a', position: 15, previous: 14, beat: 0 }), 'gap')
  t.equal(
    order.placeOf({ channel: 'b', position: 13, previous: 9, beat: 0 }),
    'next',
    'channels do not depend on each other'
  )
})

t.test('a beat raises the floor, unless something is missing up to it', async (t) => {
  const order = joined('a', 'b')
  order.arrived('a', 12)
  t.equal(order.beat({ number: 1, from: 10, to: 12, channels: [[channelHash('a'), 12]] }), true)
  t.equal(order.floor, 12)
  t.equal(order.beat({ number: 2, from: 13, to: 14, channels: [] }), false, 'a beat before it is missing')
  t.equal(
    order.beat({ number: 2, from: 12, to: 20, channels: [[channelHash('b'), 18]] }),
    false,
    'a message is missing'
  )
  t.equal(order.floor, 12)
  t.equal(order.beat({ number: 2, from: 12, to: 20, channels: [[channelHash('of others'), 18]] }), true)
  t.equal(order.placeOf({ channel: 'a', position: 25, previous: 20, beat: 2 }), 'next')
  t.equal(order.placeOf({ channel: 'b', position: 19, previous: 1, beat: 2 }), 'known')
  t.equal(order.beat({ number: 3, from: 3, to: 5, channels: [] }), true, 'an old one says nothing new')
  t.equal(order.floor, 20)
})

t.test(
  'where a beat is missing, messages of other channels may be, too, even if it said nothing new',
  async (t) => {
    const order = joined('a', 'b')
    order.beat({ number: 1, from: 10, to: 10, channels: [] })
    const place = { channel: 'b', position: 12, previous: 10, beat: 2 }
    t.equal(order.placeOf({ ...place, beat: 1 }), 'next')
    t.equal(order.placeOf(place), 'gap')
    order.covered(place)
    t.equal(order.placeOf(place), 'next')
  }
)

t.test('what was read from the database is known', async (t) => {
  const order = joined('a')
  order.restart(30)
  t.equal(order.placeOf({ channel: 'a', position: 30, previous: 20, beat: 0 }), 'known')
  t.equal(order.placeOf({ channel: 'a', position: 31, previous: 30, beat: 0 }), 'next')
  order.restart(20)
  t.equal(order.floor, 30, 'the floor does not sink')
})

t.test('messages before a channel was joined are not missing', async (t) => {
  const order = joined()
  order.join('a')
  t.equal(order.placeOf({ channel: 'a', position: 40, previous: 35, beat: 0 }), 'next', 'it is being joined')
  order.arrived('a', 40)
  order.joined('a', 38)
  t.equal(order.placeOf({ channel: 'a', position: 41, previous: 40, beat: 0 }), 'next')
  t.equal(order.beat({ number: 1, from: 10, to: 45, channels: [[channelHash('a'), 44]] }), false)
  order.leave('a')
  t.equal(
    order.beat({ number: 1, from: 10, to: 45, channels: [[channelHash('a'), 44]] }),
    true,
    'nobody wants it'
  )
  t.equal(order.has('a', 50), true, 'nobody waits for it')
})

t.test('channels whose names have the same hash', async (t) => {
  const names = ['channel 2179599', 'channel 2362382'] as const
  t.equal(channelHash(names[0]), channelHash(names[1]))
  const order = joined(...names)
  order.leave(names[0])
  t.equal(order.beat({ number: 1, from: 10, to: 12, channels: [[channelHash(names[1]), 11]] }), false)
})
