import t, { type Test } from 'tap'
import type { Audience } from '../../../lib/bus/index.js'
import {
  decode,
  encode,
  type NodeMessage,
  type NodeState
} from '../../../lib/cluster/messages/node-message.js'
import { PresenceExchange } from '../../../lib/cluster/presence-exchange.js'
import { Answers } from '../../../lib/cluster/questions/answers.js'
import type { PresenceMember } from '../../../lib/messages/index.js'
import { NOTIFY_PAYLOAD_LIMIT } from '../../../lib/postgres/database-channel.js'
import { Presence } from '../../../lib/presence/presence.js'
import { until } from '../../support/helper.js'

const [A, B, C] = ['a', 'b', 'c'].map((digit) => digit.repeat(16)) as [string, string, string]

const state: NodeState = { hostname: 'h', pid: 1, version: '1', startedAt: 1, connections: 0, timeout: 1 }

const member = (id: string, number: number, user = '', info?: unknown): PresenceMember =>
  info === undefined ? { client: `${id}-${number}`, user } : { client: `${id}-${number}`, user, info }

type Node = ReturnType<typeof nodesOn>[number]

/**
 * Nodes that are connected in this process.
 * @param byChannel whether messages about a channel reach only the nodes that have joined it
 */
function nodesOn(t: Test, byChannel: boolean, ids: readonly string[] = [A, B, C]) {
  /** Whether a message is lost, or cannot be sent. */
  const faults = { lost: false, refused: false }
  const nodes = ids.map((id) => {
    const presence = new Presence({ patterns: ['room:*'], onError: (error) => t.fail(String(error)) })
    const joined = new Set<string>()
    const exchange: PresenceExchange = new PresenceExchange({
      node: id,
      presence,
      bus: {
        announces: byChannel,
        async send(to: Audience, texts: readonly string[]) {
          if (faults.refused) throw new Error('refused')
          for (const text of texts) {
            if (Buffer.byteLength(text) >= NOTIFY_PAYLOAD_LIMIT) throw new Error('too large')
            if (!faults.lost) for (const node of nodes) if (node.hears(to)) node.inbox.push(text)
          }
        }
      },
      read: async (channels, others) => {
        const answers = new Answers(others)
        for (const other of nodes) {
          if (others.includes(other.id) && !other.mute)
            answers.add(other.id, other.exchange.channels.answer(channels))
        }
        return answers
      },
      interval: 0
    })
    const seen: string[] = []
    const node = {
      id,
      presence,
      exchange,
      faults,
      inbox: [] as string[],
      /** Messages about presence that have arrived from others. */
      received: 0,
      mute: false,
      /** Joins and leaves in the channel `room:1`. */
      seen,
      hears(to: Audience) {
        return to === 'all' || !byChannel || ('node' in to ? to.node === id : joined.has(to.channel))
      },
      /** A client joins, as admission has it. @returns a function by which it leaves */
      async join(channel: string, who: PresenceMember) {
        joined.add(channel)
        const leave = await exchange.channels.join([channel])
        presence.join(channel, who)
        return () => {
          presence.leave(channel, who.client)
          leave?.()
          if (presence.localMembers(channel).size === 0) joined.delete(channel)
        }
      },
      /** Takes what has arrived. */
      take() {
        for (const text of node.inbox.splice(0)) {
          const message = decode(text) as NodeMessage
          if (message.from === id) continue
          node.received++
          exchange.receive(message, { ...state, members: 0 })
        }
      },
      /** Tells all others that it is alive. */
      announce(type: 'hello' | 'heartbeat' = 'heartbeat') {
        if (type === 'heartbeat') exchange.beat()
        const text = encode({ from: id, type, node: { ...state, ...exchange.state } })
        if (faults.lost) return
        for (const other of nodes) if (other.id !== id) other.exchange.heard(decode(text) as never)
      },
      users: (channel: string) =>
        presence
          .members(channel)
          .map(({ user }) => user)
          .sort()
          .join()
    }
    presence.watch('room:1', (event, { user }) => seen.push(`${event} ${user}`))
    return node
  })
  for (const node of nodes) node.announce('hello')
  const timer = setInterval(() => {
    for (const node of nodes) node.take()
  }, 1)
  t.teardown(() => clearInterval(timer))
  return nodes
}

/** Waits until nodes have the same users in a channel. */
const agree = (nodes: Node[], channel: string, users: string) =>
  until(() => nodes.every((node) => node.users(channel) === users))

for (const [kind, byChannel] of [
  ['where all nodes hear everything', false],
  ['where messages go by channel', true]
] as const) {
  t.test(`${kind}:`, async (t) => {
    t.test('the first client of a channel finds the members of other nodes there', async (t) => {
      const [a, b, c] = nodesOn(t, byChannel) as [Node, Node, Node]
      await a.join('room:1', member(A, 1, 'alice', { color: 'red' }))
      await a.join('room:2', member(A, 2, 'anna'))
      t.equal(b.users('room:1'), '')
      const leave = await b.join('room:1', member(B, 1, 'bob'))
      await agree([a, b], 'room:1', 'alice,bob')
      t.same(b.presence.members('room:1').find(({ user }) => user === 'alice')?.info, { color: 'red' })
      t.equal(b.users('room:2'), '')
      await agree([a, b], 'room:1', 'alice,bob')
      const more = await a.join('room:1', member(A, 3, 'adam'))
      await agree([a, b], 'room:1', 'adam,alice,bob')
      more()
      await agree([a, b], 'room:1', 'alice,bob')
      // Whether alice is known before bob is let in depends on how busy the nodes are.
      t.same(b.seen.slice(0, 2).sort(), ['join alice', 'join bob'])
      t.same(b.seen.slice(2), ['join adam', 'leave adam'])

      // It keeps nothing of a channel without clients of its own, and is not told either.
      t.equal(c.users('room:1'), '')
      if (byChannel) t.equal(c.received, 0)
      leave()
      t.equal(b.users('room:1'), '')
      await agree([a], 'room:1', 'alice')
      t.same(a.seen.slice(-1), ['leave bob'])
      await b.join('room:1', member(B, 2, 'bert'))
      await agree([a, b], 'room:1', 'alice,bert')
    })

    t.test('a node without clients in a channel asks the others for its members', async (t) => {
      const [a, b, c] = nodesOn(t, byChannel) as [Node, Node, Node]
      await a.join('room:1', member(A, 1, 'alice'))
      await b.join('room:1', member(B, 1, 'bob'))
      const missing: string[] = []
      const ask = (channel: string) => c.exchange.channels.summary(channel, (ids) => missing.push(...ids))
      const answers = await Promise.all([ask('room:1'), ask('room:1'), ask('room:2')])
      t.same(
        answers.map(({ count, users }) => [count, users]),
        [
          [2, 2],
          [2, 2],
          [0, 0]
        ]
      )
      t.same(missing, [])
      b.mute = true
      t.match(await ask('room:1'), { clients: [{ user: 'alice' }], count: 1 })
      t.same(missing, [B])
    })

    t.test('a change that is lost is noticed with the next one, or with a heartbeat', async (t) => {
      const [a, b] = nodesOn(t, byChannel) as [Node, Node]
      const { faults } = a
      const leaveAlice = await a.join('room:1', member(A, 1, 'alice'))
      await a.join('room:1', member(A, 2, 'anna'))
      await b.join('room:1', member(B, 1, 'bob'))
      await agree([a, b], 'room:1', 'alice,anna,bob')
      const losing = async (change: () => unknown) => {
        const told = a.exchange.channels.version
        faults.lost = true
        await change()
        await until(() => a.exchange.channels.version > told)
        faults.lost = false
      }
      await losing(leaveAlice)
      await a.join('room:1', member(A, 3, 'adam'))
      await agree([a, b], 'room:1', 'adam,anna,bob')
      t.notOk(b.seen.some((text) => text === 'leave anna'))
      await losing(() => a.join('room:1', member(A, 4, 'alan')))
      t.equal(b.users('room:1'), 'adam,anna,bob')
      a.announce()
      await agree([a, b], 'room:1', 'adam,alan,anna,bob')

      // The last member.
      const gone = await a.join('room:3', member(A, 5, 'eve'))
      await b.join('room:3', member(B, 5, 'bob'))
      await agree([a, b], 'room:3', 'bob,eve')
      await losing(gone)
      a.announce()
      await agree([b], 'room:3', 'bob')
      t.notOk(b.seen.includes('leave anna'))
    })

    t.test('a node that has missed heartbeats, too, asks for all members', async (t) => {
      const [a, b] = nodesOn(t, byChannel) as [Node, Node]
      const { faults } = a
      const leave = await a.join('room:1', member(A, 1, 'alice'))
      await a.join('room:1', member(A, 2, 'anna'))
      await b.join('room:1', member(B, 1, 'bob'))
      await agree([a, b], 'room:1', 'alice,anna,bob')
      const told = a.exchange.channels.version
      faults.lost = true
      leave()
      await until(() => a.exchange.channels.version > told)
      a.announce()
      // What is told again with the heartbeat is lost, too.
      await new Promise((resolve) => setTimeout(resolve, 100))
      faults.lost = false
      a.announce()
      await agree([a, b], 'room:1', 'anna,bob')
      t.same(b.seen.slice(-1), ['leave alice'])
    })

    t.test('what could not be sent is asked and told with the next heartbeat', async (t) => {
      const [a, b] = nodesOn(t, byChannel) as [Node, Node]
      const { faults } = a
      await a.join('room:1', member(A, 1, 'alice'))
      await until(() => a.exchange.channels.version === 1)
      faults.refused = true
      await b.join('room:1', member(B, 1, 'bob'))
      t.equal(b.users('room:1'), 'bob')
      await until(() => b.exchange.channels.version === 1)
      faults.refused = false
      for (const node of [a, b]) node.announce()
      await agree([a, b], 'room:1', 'alice,bob')
    })

    t.test('many members, and large ones, are told in parts', async (t) => {
      const [a, b] = nodesOn(t, byChannel) as [Node, Node]
      const large = member(A, 0, 'ü\0\ud800"'.repeat(3000), { picture: '😀'.repeat(5000) })
      await a.join('room:1', large)
      await b.join('room:1', member(B, 1, 'bob'))
      await until(() => b.presence.count('room:1') === 2)
      t.same(
        b.presence.members('room:1').find(({ client }) => client === large.client),
        large
      )
      await Promise.all(
        Array.from({ length: 1000 }, (_, i) => a.join('room:1', member(A, i + 1, `user ${i}`)))
      )
      await until(() => b.presence.count('room:1') === 1002)
      // A node that is heard again gets them in an answer.
      b.exchange.forget(A)
      t.equal(b.presence.count('room:1'), 1)
      a.announce('hello')
      await until(() => b.presence.count('room:1') === 1002)
    })

    t.test('all nodes agree after many joins and leaves with losses', async (t) => {
      const nodes = nodesOn(t, byChannel)
      const [{ faults }] = nodes as [Node]
      let seed = 5
      const random = (below: number) => {
        seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
        return Math.floor((seed / 0x80000000) * below)
      }
      for (const node of nodes) await node.join('room:1', member(node.id, 0, `fixed ${node.id[0]}`))
      const leaves: (() => void)[] = []
      for (let i = 1; i < 300; i++) {
        faults.lost = random(5) === 0
        const node = nodes[random(3)]!
        if (random(3) === 0) leaves.splice(random(leaves.length), 1)[0]?.()
        else leaves.push(await node.join(`room:${1 + random(2)}`, member(node.id, i, `user ${i}`)))
        if (random(10) === 0) node.announce()
        if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 20))
      }
      faults.lost = false
      await new Promise((resolve) => setTimeout(resolve, 200))
      const wanted = nodes
        .flatMap(({ presence }) => [...presence.localMembers('room:1').values()].map(({ user }) => user))
        .sort()
        .join()
      await until(() => {
        for (const node of nodes) node.announce()
        return nodes.every((node) => node.users('room:1') === wanted)
      })
      for (const { seen } of nodes) {
        const there = new Set<string>()
        for (const text of seen) {
          const [event, user] = [text.slice(0, text.indexOf(' ')), text.slice(text.indexOf(' ') + 1)]
          t.equal(there.has(user), event === 'leave', text)
          if (event === 'join') there.add(user)
          else there.delete(user)
        }
        t.equal([...there].sort().join(), wanted)
      }
    })
  })
}
