import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Hub, type Subscriber } from '../../../lib/channels/hub.js'
import { messageIn, webSocketFrames } from '../../../lib/transports/frames.js'

const read = { read: true, write: false }

/** A subscriber that records its messages; each delivery takes this long, in milliseconds. */
function subscriber(takes = 0): Subscriber & { got: string[]; writes: number } {
  return {
    format: webSocketFrames,
    got: [],
    writes: 0,
    deliver(frames) {
      this.writes++
      this.got.push(...frames.map((frame) => messageIn(frame).data.toString()))
      for (const end = performance.now() + takes; performance.now() < end; );
    }
  }
}

const hubOf = (t: Test) =>
  new Hub(
    (error) => t.fail(String(error)),
    (_message, error) => t.fail(String(error))
  )

/** Waits for deliveries. On a busy machine, the time of a turn may suffice for one subscriber only. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await turn()
}

t.test('writes the messages of one turn at once, in order', async (t) => {
  const hub = hubOf(t)
  const one = subscriber()
  hub.join(one, ['a'], read)
  for (const text of ['1', '2', '3']) hub.deliver({ channel: 'a', text })
  await turn()
  t.same(one.got, ['1', '2', '3'])
  t.equal(one.writes, 1)
})

t.test('a new subscriber receives later messages only, nothing older', async (t) => {
  const hub = hubOf(t)
  const first = subscriber()
  const second = subscriber()
  const third = subscriber()
  hub.join(first, ['a'], read)
  hub.deliver({ channel: 'a', text: '1' })
  hub.join(second, ['a'], read)
  hub.deliver({ channel: 'a', text: '2' })
  hub.join(third, ['a'], read)
  await turns(10)
  t.same(first.got, ['1', '2'])
  t.same(second.got, ['2'])
  t.same(third.got, [])
  hub.deliver({ channel: 'a', text: '3' })
  await turns(10)
  for (const { got } of [first, second, third]) t.equal(got.at(-1), '3')
})

t.test(
  'a long round yields to the event loop and keeps the order; a subscriber that leaves gets no more',
  async (t) => {
    const hub = hubOf(t)
    const members = Array.from({ length: 40 }, () => subscriber(1))
    for (const [i, member] of members.entries()) hub.join(member, i % 2 ? ['a'] : ['a', 'b'], read)
    hub.deliver({ channel: 'a', text: '1' })
    await turn()
    const reached = () => members.filter(({ writes }) => writes > 0).length
    t.ok(reached() > 0 && reached() < 40, `${reached()} after the first turn`)
    hub.deliver({ channel: 'a', text: '2' })
    hub.deliver({ channel: 'b', text: '3' })
    const waiting = members.filter(({ writes }) => writes === 0)
    const single = waiting.find((member) => members.indexOf(member) % 2)!
    const multiple = waiting.find((member) => members.indexOf(member) % 2 === 0)!
    hub.leave(single, ['a'], read)
    hub.leave(multiple, ['a', 'b'], read)
    await turns(200)
    for (const [i, member] of members.entries()) {
      if (member === single || member === multiple) t.same(member.got, [])
      else t.same(member.got, i % 2 ? ['1', '2'] : ['1', '2', '3'])
    }
  }
)

t.test('flush writes everything at once, also the rest of a round that is in progress', async (t) => {
  const hub = hubOf(t)
  const members = Array.from({ length: 30 }, () => subscriber(1))
  for (const member of members) hub.join(member, ['a'], read)
  hub.deliver({ channel: 'a', text: '1' })
  await turn()
  hub.deliver({ channel: 'a', text: '2' })
  hub.flush()
  for (const { got } of members) t.same(got, ['1', '2'])
  t.same(hub.summary(), [{ channel: 'a', connections: 30, readers: 30, writers: 0 }])
})
