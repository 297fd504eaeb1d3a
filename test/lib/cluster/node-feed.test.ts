import t from 'tap'
import { isPast, NodeFeed } from '../../../lib/cluster/node-feed.js'
import { EventLog, type NodeStats, type ServerEvent } from '../../../lib/events/index.js'

const NODE = '0123456789abcdef'
const time = new Date(0).toISOString()
const event = { id: `${NODE}-1`, node: NODE, time, type: 'close', level: 'info', text: 'closed' }
const stats = { node: NODE, hostname: 'h', version: '1', status: 'ok', reasons: [], time, startedAt: time }
/** Nested more deeply than JSON.stringify can write. */
const deep = (member: string) =>
  `{${JSON.stringify({ ...event, ...stats }).slice(1, -1)},"${member}":${'['.repeat(3000)}${']'.repeat(3000)}}`

function feedOf(events = new EventLog(NODE)) {
  const sent: string[] = []
  const asked: boolean[] = []
  const feed = new NodeFeed({
    monitor: () => ({
      events: () => events.list(),
      samples: () => [],
      latest: () => stats as unknown as NodeStats,
      followEvents: (listener) => events.follow(listener),
      followStats: () => () => {}
    }),
    ask: (wanted) => asked.push(wanted),
    send: (text) => sent.push(text)
  })
  t.teardown(() => feed.stop())
  return { feed, sent, asked, events }
}

t.test('ignores anything that is not an event or figure of the node that sends it', async (t) => {
  const { feed, asked } = feedOf()
  const got: unknown[] = []
  const end = feed.follow({ event: (one) => got.push(one), stats: (one) => got.push(one) })
  t.same(asked, [true])
  const tell = (value: object) => feed.receive(NODE, JSON.stringify(value))
  for (const text of [
    '',
    '{',
    'null',
    '5',
    '[]',
    '{}',
    `{"events":[${deep('x')}]}`,
    `{"stats":${deep('x')}}`
  ]) {
    feed.receive(NODE, text)
  }
  tell({ events: 5, stats: [] })
  tell({
    events: [
      null,
      5,
      {},
      { ...event, node: 'f'.repeat(16) },
      { ...event, id: 'x' },
      { ...event, time: 'now' }
    ]
  })
  tell({
    events: [
      { ...event, channels: 'a' },
      { ...event, text: 5 }
    ]
  })
  tell({ stats: { ...stats, reasons: 'none' } })
  t.same(got, [])
  tell({ events: [event], stats })
  t.same(got, [event, stats])
  end()
  tell({ events: [event] })
  t.equal(got.length, 2)
  t.ok(isPast({ events: [event], samples: [stats] }))
  t.notOk(isPast({ events: [event], samples: [JSON.parse(deep('x'))] }))
  t.notOk(isPast({ events: [event, { ...event, node: 'f'.repeat(16) }], samples: [] }))
})

t.test('a node sends its events on request, in notifications of limited size', async (t) => {
  const { feed, sent, events } = feedOf()
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => clearInterval(alive))
  events.add('refusal', { text: 'before it is asked' })
  feed.asked(false)
  const channels = Array.from({ length: 10 }, (_, n) => `${n}${'é'.repeat(499)}`)
  events.add('close', { text: 'closed', reason: 'client', channels })
  for (let n = 0; n < 100; n++) events.add('refusal', { text: `${n} ${'x'.repeat(400)}`, code: `${n}` })
  const all = () => sent.flatMap((text): ServerEvent[] => JSON.parse(text).events)
  while (all().length < 101) await new Promise((resolve) => setTimeout(resolve, 10))
  for (const text of sent) t.ok(Buffer.byteLength(text) < 7500)
  t.same(
    all().map(({ id }) => id),
    Array.from({ length: 101 }, (_, n) => `${NODE}-${n + 2}`)
  )
  t.equal(all()[0]!.channels, undefined)
})
