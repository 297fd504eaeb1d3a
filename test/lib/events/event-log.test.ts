import t from 'tap'
import { EventLog, type ServerEvent } from '../../../lib/events/index.js'
import { stoppedClock } from '../../support/clock.js'

t.test('keeps the last 500 events, and passes each new one to followers', async (t) => {
  const events = new EventLog('0123456789abcdef')
  t.same(events.list(), [])
  const received: ServerEvent[] = []
  const end = events.follow((event) => received.push(event))
  const types = ['close', 'refusal', 'admin', 'schema', 'ignored'] as const
  for (let n = 1; n <= 600; n++) events.add(types[n % 5]!, { text: `${n}`, reason: `${n}` })
  const kept = events.list()
  t.equal(kept.length, 500)
  t.equal(kept[0]!.text, '101')
  t.equal(kept.at(-1)!.id, '0123456789abcdef-600')
  t.same(received.slice(100), kept)
  t.same(
    events.list(598).map(({ text }) => text),
    ['599', '600']
  )
  t.same(events.list(1000), [])
  end()
  events.add('close', { text: 'later' })
  t.equal(received.length, 600)
})

t.test('an event has the known details, and long texts are cut', async (t) => {
  const events = new EventLog('0123456789abcdef')
  events.add('close', {
    text: 'closed',
    connection: '0123456789abcdef-1',
    code: 3001,
    reason: 'token-expired'
  })
  const channels = Array.from({ length: 30 }, (_, n) => `${n}`)
  events.add('refusal', { text: 'x'.repeat(1000), code: 'FST_PGWS_INVALID_TOKEN', channels, subject: 'ann' })
  const [close, refusal] = events.list()
  t.same(close, {
    id: '0123456789abcdef-1',
    node: '0123456789abcdef',
    time: close!.time,
    type: 'close',
    level: 'info',
    text: 'closed',
    connection: '0123456789abcdef-1',
    code: 3001,
    reason: 'token-expired'
  })
  t.equal(new Date(close!.time).toISOString(), close!.time)
  t.equal(refusal!.level, 'warning')
  t.equal(refusal!.text.length, 500)
  t.equal(refusal!.channels!.length, 10)
})

t.test('counts many events of one reason in one event a second', async (t) => {
  const clock = stoppedClock(t)
  const events = new EventLog('0123456789abcdef')
  t.teardown(() => events.stop())
  for (let n = 0; n < 1000; n++) events.add('close', { text: 'gone', reason: 'client', code: 1001 })
  events.add('close', { text: 'slow', reason: 'slow', code: 3008 })
  t.equal(events.list().length, 21)
  await clock.forward(1000)
  t.match(events.list().at(-1), { type: 'close', reason: 'client', code: 1001, count: 980 })
  t.equal(events.list().length, 22)
  // Events that arrive more slowly are reported one by one again.
  await clock.forward(1000)
  events.add('close', { text: 'gone', reason: 'client' })
  t.equal(events.list().length, 23)
  t.equal(events.list().at(-1)!.count, undefined)
})
