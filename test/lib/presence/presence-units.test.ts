import t from 'tap'
import type { Format, Frame, Subscriber } from '../../../lib/channels/index.js'
import { decode, encodePresence } from '../../../lib/cluster/messages/node-message.js'
import type { Message } from '../../../lib/messages/message.js'
import type { PresenceMember, ServerEvent } from '../../../lib/messages/server-events.js'
import { NOTIFY_PAYLOAD_LIMIT } from '../../../lib/postgres/database-channel.js'
import { JoinLeavePush } from '../../../lib/presence/join-leave-push.js'
import { GATHERING, NodeSync } from '../../../lib/presence/node-sync.js'
import { decodePresence } from '../../../lib/presence/node-sync-message.js'
import { MAX_LISTED, Presence } from '../../../lib/presence/presence.js'
import { stoppedClock } from '../../support/clock.js'
import { until } from '../../support/helper.js'

const A = 'a'.repeat(16)
const B = 'b'.repeat(16)

const members = (presence: Presence, channel: string) =>
  presence
    .members(channel)
    .map(({ client, user }) => `${client.slice(17)} ${user}`)
    .sort()

/** A node that holds its notifications back until the test delivers them. */
function node(id: string, interval = 0) {
  const presence = new Presence({
    patterns: ['room:*', '**:watched'],
    onError: (error) => errors.push(error)
  })
  const errors: unknown[] = []
  const asks: string[] = []
  const sent: string[] = []
  let last = 0
  const exchange = new NodeSync({
    presence,
    hasPeers: () => true,
    send: async (message) => {
      sent.push(...encodePresence(id, ++last, message))
    },
    ask: (other) => asks.push(other),
    interval
  })
  return { id, presence, exchange, sent, asks, errors }
}

type Node = ReturnType<typeof node>

const member = (id: string, number: number, user = '', info?: unknown): PresenceMember =>
  info === undefined ? { client: `${id}-${number}`, user } : { client: `${id}-${number}`, user, info }

/** Delivers the notifications. */
function hand(from: Node, to: Node, payloads = from.sent.splice(0)): void {
  for (const payload of payloads) {
    const message = decode(payload)
    if (message?.type === 'presence') to.exchange.receive(from.id, message)
  }
}

t.test('knows which channels are presence channels', async (t) => {
  const { presence } = node(A)
  t.ok(presence.enabled)
  t.ok(presence.has('room:1'))
  t.notOk(presence.has('other'))
  t.notOk(presence.has('\0x:watched'))
  t.notOk(new Presence({ patterns: undefined, onError() {} }).enabled)
  presence.join('other', member(A, 1))
  t.same(presence.members('other'), [])
})

t.test(
  'reports each join and leave once, and a watcher that throws does not affect the others',
  async (t) => {
    const { presence, errors } = node(A)
    const seen: string[] = []
    presence.watch('room:1', () => {
      throw new Error('mine')
    })
    const stop = presence.watch('room:1', (event, { client }) => seen.push(`${event} ${client.slice(17)}`))
    presence.join('room:1', member(A, 1, 'alice'))
    presence.join('room:1', member(A, 1, 'alice'))
    presence.leave('room:1', `${A}-1`)
    presence.leave('room:1', `${A}-1`)
    stop()
    presence.join('room:1', member(A, 2))
    t.same(seen, ['join 1', 'leave 1'])
    t.equal(errors.length, 3)
  }
)

t.test('gathers many joins of one turn in few notifications', async (t) => {
  const [a, b] = [node(A), node(B)]
  b.exchange.heard(A, 0)
  for (let i = 0; i < 1000; i++) a.presence.join('room:1', member(A, i, `user ${i}`))
  await until(() => a.sent.length > 0)
  t.ok(a.sent.length <= 6, `${a.sent.length}`)
  t.ok(a.sent.every((payload) => Buffer.byteLength(payload) < NOTIFY_PAYLOAD_LIMIT))
  hand(a, b)
  t.equal(b.presence.members('room:1').length, 1000)
  t.match(b.presence.summary('room:1'), { count: 1000, users: 1000 })
  t.same(b.asks, [])
})

t.test('gathers joins that arrive one after another', async (t) => {
  const a = node(A)
  const { forward } = stoppedClock(t)
  for (let i = 0; i < 500; i++) {
    a.presence.join('room:1', member(A, i))
    await forward(1)
  }
  await forward(GATHERING)
  t.equal(a.exchange.version, 500)
  // The first join is sent alone, then one message for each gathering interval.
  const messages = a.sent.filter((payload) => payload.includes('"last":true')).length
  t.ok(messages > 5 && messages <= 2 + 500 / GATHERING, `${messages}`)
})

t.test('splits a list that is too large for one notification, whatever it contains', async (t) => {
  const [a, b] = [node(A), node(B)]
  b.exchange.heard(A, 0)
  const large = member(A, 1, 'ü\0\ud800"'.repeat(3000), { picture: '😀'.repeat(5000) })
  a.presence.join('room:1', large)
  await until(() => a.sent.length > 0)
  t.ok(a.sent.length > 3)
  hand(a, b)
  t.same(b.presence.members('room:1'), [large])
})

t.test('a node that missed a change requests the whole list, and reports the difference', async (t) => {
  const [a, b] = [node(A), node(B)]
  const seen: string[] = []
  b.presence.watch('room:1', (event, { client, user }) => seen.push(`${event} ${client.slice(17)} ${user}`))
  b.exchange.heard(A, 0)
  a.presence.join('room:1', member(A, 1, 'alice'))
  a.presence.join('room:1', member(A, 2, 'bob'))
  await until(() => a.sent.length > 0)
  hand(a, b)
  t.same(seen.splice(0), ['join 1 alice', 'join 2 bob'])

  // The next notification reveals that one was lost.
  a.presence.leave('room:1', `${A}-1`)
  await until(() => a.sent.length > 0)
  a.sent.splice(0)
  a.presence.join('room:1', member(A, 3, 'carol'))
  await until(() => a.sent.length > 0)
  hand(a, b)
  t.same(b.asks.splice(0), [A])
  t.same(seen, [])
  a.exchange.asked()
  await until(() => a.sent.length > 0)
  hand(a, b)
  t.same(seen.splice(0), ['leave 1 alice', 'join 3 carol'])
  t.same(members(b.presence, 'room:1'), members(a.presence, 'room:1'))

  // A heartbeat reveals that the last one was lost.
  b.exchange.heard(A, a.exchange.version)
  t.same(b.asks, [])
  a.presence.leave('room:1', `${A}-2`)
  await until(() => a.sent.length > 0)
  a.sent.splice(0)
  b.exchange.heard(A, a.exchange.version)
  t.same(b.asks.splice(0), [A])
  // Other requests in the meantime share the answer.
  a.exchange.asked()
  a.exchange.asked()
  await until(() => a.sent.length > 0)
  t.equal(a.sent.length, 1)
  hand(a, b)
  t.same(seen.splice(0), ['leave 2 bob'])
  b.exchange.heard(A, a.exchange.version)
  t.same(b.asks, [])

  b.exchange.forget(A)
  t.same(seen, ['leave 3 carol'])
  t.same(b.presence.members('room:1'), [])
})

t.test('lost, repeated or mixed parts do not affect other messages', async (t) => {
  const [a, b] = [node(A), node(B)]
  b.exchange.heard(A, 0)
  for (let i = 0; i < 1000; i++) a.presence.join('room:1', member(A, i))
  await until(() => a.sent.length > 2)
  const first = a.sent.splice(0)
  a.exchange.asked()
  await until(() => a.sent.length > 2)
  const second = a.sent.splice(0)
  hand(a, b, [first[0]!, second[1]!, first[2]!, ...first.slice(1)])
  t.same(b.presence.members('room:1'), [])
  hand(a, b, [first[0]!, ...second])
  t.equal(b.presence.members('room:1').length, 1000)
  hand(a, b, first)
  t.equal(b.presence.members('room:1').length, 1000)
})

/** The clients that a message lists; undefined if it only has their number. */
function clientsIn({ serverEvent }: Message): string[] | undefined {
  if (serverEvent?.event !== 'Presence' || !('clients' in serverEvent.payload)) return undefined
  return serverEvent.payload.clients.map(({ client }) => client)
}

/** The number of clients, if a message has it. */
function countIn({ serverEvent }: Message): number | undefined {
  if (serverEvent?.event !== 'Presence' || !('count' in serverEvent.payload)) return undefined
  return serverEvent.payload.count
}

t.test(
  'a client that joins or leaves while events wait receives exactly what the list does not contain',
  async (t) => {
    const { presence } = node(A)
    const events = new JoinLeavePush(presence, (_message, error) => t.fail(String(error)))
    let encoded = 0
    const format: Format = {
      encode({ serverEvent }) {
        encoded++
        const { event, payload } = serverEvent as ServerEvent & { event: 'Join' | 'Leave' }
        return { bytes: Buffer.from(`${event} ${payload.client}\n`), position: undefined }
      }
    }
    class Reader implements Subscriber {
      readonly format = format
      readonly list: Set<string>
      constructor() {
        this.list = new Set(clientsIn(events.add(this, 'room:1')))
      }
      deliver(_frames: readonly Frame[], joined: Buffer): void {
        for (const line of joined.toString().trimEnd().split('\n')) {
          const [event, client] = line.split(' ') as [string, string]
          if (event === 'Join' ? this.list.has(client) : !this.list.has(client)) t.fail(line)
          if (event === 'Join') this.list.add(client)
          else this.list.delete(client)
        }
      }
    }
    const readers: Reader[] = []
    const clients: string[] = []
    for (let i = 0; i < 2000; i++) {
      if (i % 3 === 2) presence.leave('room:1', clients.splice((i * 7) % clients.length, 1)[0]!)
      else {
        presence.join('room:1', member(A, i))
        clients.push(`${A}-${i}`)
      }
      if (i % 10 === 0) readers.push(new Reader())
      if (i % 50 === 0) events.remove(readers.splice((i * 3) % readers.length, 1)[0]!, 'room:1')
      if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, i % 7))
    }
    const wanted = [...clients].sort().join()
    await until(() => readers.every(({ list }) => [...list].sort().join() === wanted))
    t.ok(encoded < 5000, 'each event is encoded once, and once more for clients that joined in the meantime')
    for (const reader of readers) events.remove(reader, 'room:1')
    encoded = 0
    presence.join('room:1', member(A, 5000))
    await new Promise((resolve) => setTimeout(resolve, 2 * GATHERING))
    t.equal(encoded, 0)
  }
)

t.test(
  'a large channel reports the number of its members, and their names once it is small again',
  async (t) => {
    const { presence } = node(A)
    const events = new JoinLeavePush(presence, (_message, error) => t.fail(String(error)))
    let encoded = 0
    class Reader implements Subscriber {
      readonly got: Message[]
      readonly format: Format = {
        encode: (message) => {
          encoded++
          this.got.push(message)
          return { bytes: Buffer.alloc(0), position: undefined }
        }
      }
      constructor() {
        this.got = []
        this.got.push(events.add(this, 'room:1'))
      }
      deliver(): void {}
      get last() {
        return this.got.at(-1)!
      }
    }
    presence.join('room:1', member(A, 0, 'first'))
    const early = new Reader()
    t.same(clientsIn(early.last), [`${A}-0`])
    for (let i = 1; i <= MAX_LISTED; i++) presence.join('room:1', member(A, i, `user${i % 100}`))
    const late = new Reader()
    const summary = { count: MAX_LISTED + 1, users: 101 }
    t.match(late.last.serverEvent, { event: 'Presence', payload: summary })
    await until(() => early.got.length > 1)
    t.match(early.last.serverEvent, { event: 'Presence', payload: summary })
    // Many joins and leaves in a large channel cause one event.
    encoded = 0
    for (let i = 0; i < 5000; i++) {
      presence.join('room:1', member(A, 5000, 'last'))
      if (i < 4999) presence.leave('room:1', `${A}-5000`)
    }
    await until(() => countIn(early.last) === MAX_LISTED + 2)
    t.ok(encoded <= 4, `${encoded}`)
    // With one member less the channel still counts as large.
    presence.leave('room:1', `${A}-5000`)
    presence.leave('room:1', `${A}-1`)
    await until(() => countIn(early.last) === MAX_LISTED)
    for (let i = 2; i <= MAX_LISTED; i++) presence.leave('room:1', `${A}-${i}`)
    for (const reader of [early, late]) {
      await until(() => clientsIn(reader.last) !== undefined)
      t.same(clientsIn(reader.last), [`${A}-0`])
    }
    presence.join('room:1', member(A, 7000, 'again'))
    for (const reader of [early, late]) {
      await until(() => reader.last.serverEvent?.event === 'Join')
      t.match(reader.last.serverEvent, { payload: { client: `${A}-7000` } })
    }
  }
)

t.test('limits how often a node is asked', async (t) => {
  const b = node(B, 60_000)
  b.exchange.heard(A, 5)
  b.exchange.heard(A, 6)
  t.same(b.asks, [A])
  // It has no presence channels.
  b.exchange.heard('c'.repeat(16), undefined)
  t.same(b.asks, [A])
})

t.test('ignores messages of another shape', async (t) => {
  for (const value of [
    null,
    5,
    'text',
    [],
    {},
    { after: 0 },
    { after: -1, changes: [] },
    { after: 0, changes: {} },
    { after: 0, changes: [null] },
    { after: 0, changes: [[]] },
    { after: 0, changes: [['room:1']] },
    { after: 0, changes: [[5, 1, 'x']] },
    { after: 0, changes: [['room:1', '1', 'x']] },
    { after: 0, changes: [['room:1', 1.5, 'x']] },
    { after: 0, changes: [['room:1', 1, 5]] },
    { after: 0, changes: [['room:1', 1, 'x', 1, 1]] },
    { version: 1, members: [['room:1', 1]] },
    { version: 1.5, members: [] },
    { version: '1', members: [] }
  ]) {
    t.equal(decodePresence(A, JSON.stringify(value)), undefined, JSON.stringify(value))
  }
  t.equal(decodePresence(A, '{'), undefined)
  t.same(decodePresence(A, '{"after":0,"changes":[["room:1",7,"x",null],["room:1",7]]}'), {
    after: 0,
    changes: [
      { event: 'join', channel: 'room:1', member: { client: `${A}-7`, user: 'x', info: null } },
      { event: 'leave', channel: 'room:1', member: { client: `${A}-7`, user: '' } }
    ]
  })
})
