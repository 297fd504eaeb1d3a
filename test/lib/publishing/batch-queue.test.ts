import t, { type Test } from 'tap'
import { errors } from '../../../lib/errors.js'
import {
  BatchQueue,
  MAX_BATCH,
  MAY_WAIT,
  type Notification,
  type Outcome
} from '../../../lib/publishing/batch-queue.js'
import { stoppedClock } from '../../support/clock.js'

type Answer = readonly Outcome[] | Error | undefined

/** A queue whose statements the test answers one by one. */
function queueOf({ repeatable = false, limit = 1000 } = {}) {
  const statements: string[][] = []
  const waiting: ((answer: Answer) => void)[] = []
  const state = { ready: true }
  const queue = new BatchQueue({
    send(groups) {
      statements.push(groups.map((group) => group.map(({ payload }) => payload).join('+')))
      return new Promise((resolve, reject) => {
        waiting.push((answer) => {
          if (answer instanceof Error) reject(answer)
          else resolve(answer ?? groups.map(() => undefined))
        })
      })
    },
    limit: () => limit,
    repeatable: () => repeatable,
    ready: () => state.ready,
    timeout: 1000,
    onBatch() {}
  })
  /** Answers the running statement; undefined means that everything was committed. */
  async function answer(value?: Answer): Promise<void> {
    await turn()
    waiting.shift()!(value)
    await turn()
  }
  return { queue, statements, answer, state }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))
const of = (payload: string, databaseChannel?: string): Notification[] => [
  { channel: 'a', payload, databaseChannel }
]

t.test('messages that arrive during a statement go into the next one, in order', async (t) => {
  const { queue, statements, answer } = queueOf()
  const first = queue.publish(of('1'))
  await turn()
  const others = ['2', '3', '4'].map((payload) => queue.publish(of(payload)))
  await answer()
  await first
  await answer()
  await Promise.all(others)
  t.same(statements, [['1'], ['2', '3', '4']])
  t.equal(queue.queuedBytes, 0)
  await queue.idle()
})

t.test('limits the size of a batch, and sends messages alone where necessary', async (t) => {
  const { queue, statements, answer } = queueOf()
  const many = Array.from({ length: MAX_BATCH + 1 }, () => queue.publish(of('x')))
  const alone = queue.publish([...of('a'), ...of('b')], { alone: true })
  const last = queue.publish(of('z'))
  for (let i = 0; i < 4; i++) await answer()
  await Promise.all([...many, alone, last])
  t.same(
    statements.map(({ length }) => length),
    [MAX_BATCH, 1, 1, 1]
  )
  t.same(statements.slice(2), [['a+b'], ['z']])
})

t.test('an equal payload on one database channel waits for the next statement', async (t) => {
  const { queue, statements, answer } = queueOf()
  const all = ['same', 'same', 'other'].map((payload) => queue.publish(of(payload, 'raw')))
  await answer()
  await answer()
  await Promise.all(all)
  t.same(statements, [['same'], ['same', 'other']])
})

t.test('rejects oversized payloads before it sends anything', async (t) => {
  const { queue, statements } = queueOf({ limit: 3 })
  await t.rejects(queue.publish([...of('ok'), ...of('long')]), { code: 'FST_PGWS_PAYLOAD_TOO_LARGE' })
  t.same(statements, [])
  t.equal(queue.queuedBytes, 0)
})

t.test('sends groups again that were not reached; a group that failed fails alone', async (t) => {
  const { queue, statements, answer } = queueOf()
  const [one, two, three] = ['1', '2', '3'].map((payload) => queue.publish(of(payload)))
  const refused = new errors.Rejected('no')
  const failed = t.rejects(two!, refused)
  await answer([undefined, refused])
  await answer()
  await Promise.all([one, failed, three])
  t.same(statements, [['1', '2', '3'], ['3']])
})

t.test('sends each group of a rejected statement by itself', async (t) => {
  const { queue, statements, answer } = queueOf()
  const [one, two, three] = ['1', '2', '3'].map((payload) => queue.publish(of(payload)))
  const refused = new errors.NotAccepted('a value is wrong')
  const failed = t.rejects(two!, refused)
  await answer(refused)
  await answer()
  await answer(refused)
  await answer()
  await Promise.all([one, failed, three])
  t.same(statements, [['1', '2', '3'], ['1'], ['2'], ['3']])
})

t.test('groups that are sent by themselves keep their place in the queue during an outage', async (t) => {
  const clock = stoppedClock(t)
  const { queue, statements, answer } = queueOf()
  const published = ['1', '2', '3'].map((payload) => queue.publish(of(payload), MAY_WAIT))
  await answer(new errors.NotAccepted('a value is wrong'))
  published.push(queue.publish(of('4'), MAY_WAIT))
  await answer(new errors.DatabaseUnavailable('gone'))
  await clock.forward(60)
  for (let times = 0; times < 4; times++) await answer()
  await Promise.all(published)
  t.same(statements, [['1', '2', '3'], ['1'], ['1'], ['2'], ['3'], ['4']])
})

t.test('keeps messages in order while the database is unavailable, up to their timeout', async (t) => {
  const clock = stoppedClock(t)
  const { queue, statements, answer } = queueOf()
  const patient = ['1', '2'].map((payload) => queue.publish(of(payload), MAY_WAIT))
  const atOnce = t.rejects(queue.publish(of('now')), { code: 'FST_PGWS_DATABASE_UNAVAILABLE' })
  const short = t.rejects(queue.publish(of('short'), { wait: 100 }), {
    code: 'FST_PGWS_DATABASE_UNAVAILABLE'
  })
  const away = new errors.DatabaseUnavailable('refused')
  await answer(away)
  await atOnce
  t.equal(queue.overloaded, true, 'senders are paused')
  for (let tries = 0; tries < 4; tries++) {
    await clock.forward(60)
    await answer(away)
  }
  await short
  let drained = false
  queue.onDrain(() => {
    drained = true
  })
  await clock.forward(60)
  await answer()
  await Promise.all(patient)
  t.same(statements[0], ['1', '2', 'now', 'short'])
  t.same(statements.at(-1), ['1', '2'])
  t.equal(drained, true)
  const late = t.rejects(queue.publish(of('late'), MAY_WAIT), { code: 'FST_PGWS_DATABASE_UNAVAILABLE' })
  for (let tries = 0; tries < 25; tries++) {
    await answerIfAny(answer, away)
    await clock.forward(60)
  }
  await late
})

async function answerIfAny(answer: (value: Answer) => Promise<void>, value: Answer): Promise<void> {
  try {
    await answer(value)
  } catch (error) {
    // No statement is running: it waits for the next attempt.
    if (!(error instanceof TypeError)) throw error
  }
}

t.test('after an unknown outcome, drops messages that could be published twice', unknownOutcome(false))
t.test('after an unknown outcome, sends idempotent messages again', unknownOutcome(true))

function unknownOutcome(repeatable: boolean) {
  return async (t: Test) => {
    const clock = stoppedClock(t)
    const { queue, statements, answer } = queueOf({ repeatable })
    const published = queue.publish(of('1'), MAY_WAIT)
    const settled = repeatable ? published : t.rejects(published, { code: 'FST_PGWS_OUTCOME_UNKNOWN' })
    await answer(new errors.OutcomeUnknown('the connection broke'))
    if (repeatable) {
      await clock.forward(60)
      await answer()
    }
    await settled
    t.same(statements, repeatable ? [['1'], ['1']] : [['1']])
  }
}

t.test('sends nothing while this node does not listen', async (t) => {
  const clock = stoppedClock(t)
  const { queue, statements, answer, state } = queueOf()
  state.ready = false
  await t.rejects(queue.publish(of('now')), { code: 'FST_PGWS_DATABASE_UNAVAILABLE' })
  const waits = queue.publish(of('waits'), MAY_WAIT)
  await clock.forward(200)
  t.same(statements, [])
  state.ready = true
  await clock.forward(60)
  await answer()
  await waits
  t.same(statements, [['waits']])
})
