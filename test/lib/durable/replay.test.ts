import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Format } from '../../../lib/channels/frames.js'
import { Hub } from '../../../lib/channels/hub.js'
import { IncomingQueue } from '../../../lib/channels/incoming/incoming-queue.js'
import { Losses } from '../../../lib/channels/incoming/losses.js'
import type { Trimmed } from '../../../lib/durable/reads/channel-statements.js'
import { Replay } from '../../../lib/durable/replay/replay.js'
import { StoredMessage } from '../../../lib/durable/stored-message.js'
import { errors } from '../../../lib/errors.js'
import { EventLog } from '../../../lib/events/index.js'
import type { Message } from '../../../lib/messages/message.js'
import { messageId, type Reference, storedMessage } from '../../../lib/messages/notification-payload.js'
import { historyGap } from '../../../lib/messages/server-message.js'
import { Metrics } from '../../../lib/metrics.js'
import { stoppedClock } from '../../support/clock.js'

const EPOCH = '0000000e'

/** The content of the database, set by the tests; they can replace a function by one that fails or waits. */
class Stored {
  epoch = EPOCH
  installed = true
  server = '00000001'
  trimmed: Trimmed[] | null = []
  rows: Message[] = []
  /** Called before each answer. */
  before: (question: string) => unknown = () => {}

  add(position: number, channel = 'kept', text = `${position}`): void {
    this.rows.push(storedMessage(this.epoch, position, channel, JSON.stringify({ channel, payload: text })))
  }

  readonly durable = {
    refresh: async () => void (await this.before('refresh')),
    installed: true,
    epoch: EPOCH,
    secret: undefined,
    ageOf: (channel: string) => (channel.startsWith('kept') ? 60 : undefined),
    historyGap: (channel: string, requested: string | null, _oldest: number | null, latest: number) =>
      historyGap(channel, { requested, latest: latest === 0 ? null : messageId(this.epoch, latest) })
  }

  readonly history = {
    timeline: () => this.#answer('timeline', () => this.server),
    latest: () => this.#answer('latest', () => this.rows.at(-1)?.position ?? 0),
    // Pages of two messages.
    readAll: (after: number) =>
      this.#answer('readAll', () => {
        const rows = this.rows.filter(({ position }) => position! > after)
        const messages = rows.slice(0, 2).map((message) => new StoredMessage(message, () => {}))
        return { messages, more: rows.length > 2 }
      }),
    resolve: (references: readonly Reference[]) =>
      this.#answer('resolve', () => {
        const found = new Map<Reference, Message | 'gone'>()
        for (const one of references)
          found.set(one, this.rows.find(({ position }) => position === one.position) ?? 'gone')
        return found
      }),
    catchUp: async () => {},
    trimmedSince: (position: number) =>
      this.#answer('trimmedSince', () => this.trimmed?.filter(({ trimmed }) => trimmed > position) ?? null)
  }

  async #answer<Value>(question: string, value: () => Value): Promise<Value> {
    await this.before(question)
    return value()
  }
}

/** A server with a reader of each channel. The tests disconnect and reconnect its listener. */
async function server(t: Test, ...rows: number[]) {
  const stored = new Stored()
  for (const position of rows) stored.add(position)
  const logged: string[] = []
  const write = (_fields: object, message: string) => logged.push(message)
  const log = { debug: write, info: write, warn: write, error: write }
  const hub = new Hub(
    () => t.fail('a listener threw'),
    () => t.fail('a message could not be encoded')
  )
  const losses = new Losses(new Metrics('0123456789abcdef', unread), new EventLog('0123456789abcdef'), log)
  t.teardown(() => losses.stop())
  const seen: string[] = []
  const format: Format = {
    encode: ({ text, position }) => ({ bytes: Buffer.from(text), position })
  }
  for (const channel of ['kept', 'kept too', 'plain']) {
    hub.join({ format, deliver() {} }, [channel], { read: true, write: false })
    hub.listen(channel, (text) => {
      const { event, payload } = JSON.parse(text)
      seen.push(event === undefined ? payload : `${event} ${channel} ${payload.latest}`)
    })
  }
  const incoming = new IncomingQueue({
    listenChannel: 'listen',
    deliver: (message) => hub.deliver(message),
    wanted: () => true,
    resolve: (references) => stored.history.resolve(references),
    onMessage() {},
    onLost: (reason) => t.fail(reason),
    onGap: () => t.fail('nothing is announced here'),
    replays: true
  })
  const replay = new Replay({
    history: stored.history,
    durable: stored.durable,
    incoming,
    hub,
    losses,
    log,
    listening: () => true,
    onHealed() {}
  })
  t.teardown(() => replay.stop())
  await replay.refresh()
  /** Receives a message that has just been stored. */
  const hear = (position: number, channel = 'kept') => {
    stored.add(position, channel)
    incoming.receive(stored.rows.at(-1)!.text)
  }
  /** Sends a probe, and receives it. */
  const probe = async () => {
    replay.probe()()
    await settled()
  }
  return { stored, replay, incoming, losses, seen, logged, hear, probe }
}

function unread(): never {
  throw new Error('nobody reads the metrics')
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await nextTurn()
}

t.test('replays missed messages once and in order, before anything newer', async (t) => {
  const { stored, replay, incoming, seen, hear } = await server(t, 10)
  t.equal(incoming.floor, 10)
  hear(11)
  replay.lost('listener')
  for (const position of [12, 13, 14, 15]) stored.add(position)
  replay.reconnected('listener')
  // It is received while the others are being read.
  hear(16)
  t.same(seen, ['11'])
  await settled()
  hear(17)
  t.same(seen, ['11', '12', '13', '14', '15', '16', '17'])
})

t.test('messages that are not stored wait as well, and are not replayed', async (t) => {
  const { stored, replay, incoming, seen } = await server(t, 10)
  replay.lost('listener')
  stored.add(11)
  replay.reconnected('listener')
  incoming.receive('{"channel":"plain","payload":"not stored"}')
  t.same(seen, [])
  await settled()
  t.same(seen, ['11', 'not stored'])
})

t.test('if the listener is lost during a replay, the next replay resumes where that one ended', async (t) => {
  const { stored, replay, seen } = await server(t, 10)
  replay.lost('listener')
  for (const position of [11, 12, 13, 14]) stored.add(position)
  let pages = 0
  let proceed = () => {}
  const waits = new Promise<void>((resolve) => {
    proceed = resolve
  })
  stored.before = (question) => (question === 'readAll' && ++pages === 2 ? waits : undefined)
  replay.reconnected('listener')
  await settled()
  t.same(seen, ['11', '12'])
  replay.lost('listener')
  stored.add(15)
  replay.reconnected('listener')
  await settled()
  t.same(seen, ['11', '12'])
  proceed()
  await settled()
  t.same(seen, ['11', '12', '13', '14', '15'])
})

t.test(
  'the floor rises to what was received before the question to the database, once a probe confirms it',
  async (t) => {
    const { stored, replay, incoming, hear, probe } = await server(t, 10)
    hear(11)
    // The first probe asks the database. The second confirms that everything up to the answer was received.
    await probe()
    t.equal(incoming.floor, 10)
    hear(12)
    await probe()
    t.equal(incoming.floor, 11)
    await probe()
    t.equal(incoming.floor, 12)

    // A probe of a lost connection confirms nothing for the next one.
    hear(13)
    await probe()
    const arrived = replay.probe()
    replay.lost('listener')
    arrived()
    t.equal(incoming.floor, 12)
    // Neither does an answer to an earlier question.
    stored.before = () => {
      throw new errors.DatabaseUnavailable('it is away')
    }
    replay.reconnected('listener')
    await probe()
    t.equal(incoming.floor, 12)
  }
)

t.test(
  'another epoch: reports a gap to all durable channels, and starts again from the new positions',
  async (t) => {
    const { stored, replay, incoming, seen, hear } = await server(t, 10, 11)
    replay.lost('listener')
    stored.before = (question) => {
      if (question === 'refresh') Object.assign(stored.durable, { epoch: '0000000f' })
    }
    Object.assign(stored, { epoch: '0000000f', rows: [] })
    stored.add(3)
    replay.reconnected('listener')
    await settled()
    const latest = messageId('0000000f', 3)
    t.same(seen, [`HistoryGap kept ${latest}`, `HistoryGap kept too ${latest}`])
    t.equal(incoming.floor, 3)
    hear(4)
    t.equal(seen.at(-1), '4')
  }
)

t.test('a database that was restored to an earlier state has positions behind the floor', async (t) => {
  const { stored, replay, incoming, losses, seen } = await server(t, 10, 11)
  replay.lost('listener')
  stored.rows.pop()
  replay.reconnected('listener')
  await settled()
  t.match(seen, ['HistoryGap kept ', 'HistoryGap kept too '])
  t.equal(incoming.floor, 10)
  t.same(losses.failures, ['diverged'])
})

t.test(
  'reports a gap for messages that were deleted before they were read, unless they were delivered',
  async (t) => {
    const { stored, replay, seen, hear } = await server(t, 10)
    hear(11)
    replay.lost('listener')
    stored.add(14)
    stored.trimmed = [
      { channel: 'kept', trimmed: 11 },
      { channel: 'kept too', trimmed: 12 },
      { channel: 'kept by nobody', trimmed: 13 }
    ]
    replay.reconnected('listener')
    await settled()
    t.same(seen, ['11', `HistoryGap kept too ${messageId(EPOCH, 14)}`, '14'])

    // If the database does not know the channels any more, all of them get a gap.
    replay.lost('listener')
    stored.trimmed = null
    replay.reconnected('listener')
    await settled()
    t.match(seen.slice(3), ['HistoryGap kept ', 'HistoryGap kept too '])
  }
)

t.test('a promoted standby that has other messages at positions that were delivered', async (t) => {
  const promoted = async (text: string) => {
    const { stored, replay, losses, seen, hear, probe } = await server(t, 10)
    hear(11)
    await probe()
    await probe()
    replay.lost('listener')
    stored.server = '00000002'
    stored.rows.pop()
    stored.add(11, 'kept', text)
    stored.add(12)
    replay.reconnected('listener')
    await settled()
    return { seen: seen.slice(1), failures: losses.failures }
  }
  t.same(await promoted('11'), { seen: ['12'], failures: [] })
  const { seen, failures } = await promoted('another')
  t.match(seen, ['HistoryGap kept ', 'HistoryGap kept too ', '12'])
  t.same(failures, ['diverged'])
})

t.test('without the schema nothing is replayed, and messages pass', async (t) => {
  const { stored, replay, seen, hear } = await server(t, 10)
  replay.lost('listener')
  stored.add(11)
  stored.durable.installed = false
  replay.reconnected('listener')
  hear(12)
  await settled()
  t.same(seen, ['12'])
})

t.test('retries a database that is away, and gives up after 10 s; other messages wait', async (t) => {
  const { stored, replay, losses, seen, logged, hear } = await server(t, 10)
  const clock = stoppedClock(t)
  let asked = 0
  stored.before = () => {
    asked++
    throw new errors.DatabaseUnavailable('it is away')
  }
  replay.lost('listener')
  stored.add(11)
  replay.reconnected('listener')
  hear(12)
  await clock.forward(9000)
  t.same(seen, [])
  t.match(logged, ['could not read the messages that durable channels missed'])
  t.ok(asked > 3 && asked < 15, `asked ${asked} times, with a growing delay`)
  t.same(losses.failures, [])
  await clock.forward(3000)
  t.same(seen, ['HistoryGap kept null', 'HistoryGap kept too null', '12'])
  t.same(losses.failures, ['unreplayed'])
})

t.test('continues the replay where it stopped if the database answers again in time', async (t) => {
  const { stored, replay, losses, seen } = await server(t, 10)
  const clock = stoppedClock(t)
  let failing = 4
  stored.before = () => {
    if (failing-- > 0) throw new errors.DatabaseUnavailable('it is away')
  }
  replay.lost('listener')
  stored.add(11)
  replay.reconnected('listener')
  await clock.forward(5000)
  t.same(seen, ['11'])
  t.same(losses.failures, [])
})

t.test('gives up at once if a retry cannot help', async (t) => {
  const { stored, replay, losses, seen, hear } = await server(t, 10)
  stored.before = () => {
    throw new errors.MissingGrant({ cause: new Error('grant pgws_server to me') })
  }
  replay.lost('listener')
  stored.add(11)
  replay.reconnected('listener')
  hear(12)
  await settled()
  t.same(seen, ['HistoryGap kept null', 'HistoryGap kept too null', '12'])
  t.same(losses.failures, ['unreplayed'])
})

t.test('a message that is given up is a gap for readers of its channel only', async (t) => {
  const { replay, seen } = await server(t, 10)
  const lost = (channel: string | undefined): Reference => ({ table: 'message', position: 12, channel })
  replay.sendGap(lost('kept'))
  replay.sendGap(lost('plain'))
  // A notification contains the name unless it is too long.
  replay.sendGap(lost(undefined))
  t.same(seen, [`HistoryGap kept ${messageId(EPOCH, 12)}`])
})
