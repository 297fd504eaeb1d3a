import { createHistogram } from 'node:perf_hooks'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { VERSION } from './version.js'

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

/** The values that are read when the metrics are requested. Times are in seconds. */
export interface Readings {
  /** By transport. */
  connections: Readonly<Record<string, number>>
  channels: number
  pausedSockets: number
  publishQueueBytes: number
  messagesSent: number
  bytesSent: number
  bufferedBytes: number
  fallenBehind: number
  listenerUp: boolean
  listenerReconnects: number
  listenerGap: number
  /** Unix time. */
  listenerHeartbeat: number | undefined
  /** 0 to 1. */
  notificationQueueUsage: number | undefined
  /** Undefined: another node is the sequencer. */
  outboxBytes: number | undefined
  sequencer: boolean
}

/** A counter that can be read. */
class Total {
  total = 0

  inc(by = 1): void {
    this.total += by
  }
}

/** Counters by reason, which can be read. The reasons are a fixed set. */
class Totals {
  readonly totals: Record<string, number> = {}

  inc({ reason }: { reason: string }, by = 1): void {
    this.totals[reason] = (this.totals[reason] ?? 0) + by
  }
}

/** The longest time that is recorded as it is, in microseconds: an hour. */
const LONGEST = 3_600_000_000

/** The percentiles of times, in intervals. */
class Percentiles {
  readonly #microseconds = createHistogram({ lowest: 1, highest: LONGEST })

  record(seconds: number): void {
    this.#microseconds.record(Math.min(Math.max(1, Math.round(seconds * 1e6)), LONGEST))
  }

  /** The percentiles since the last call, in milliseconds; null if there was nothing. */
  take(): { p50Ms: number; p99Ms: number } | null {
    if (this.#microseconds.count === 0) return null
    const [p50Ms, p99Ms] = [50, 99].map((percentile) => this.#microseconds.percentile(percentile) / 1000)
    this.#microseconds.reset()
    return { p50Ms: p50Ms!, p99Ms: p99Ms! }
  }
}

/**
 * The metrics of one server, named as Prometheus recommends (https://prometheus.io/docs/practices/naming/). No label
 * contains the name of a channel or data of a user.
 */
export class Metrics {
  readonly registry = new Registry()
  readonly #registers = [this.registry]

  readonly messagesReceived = this.#counter('messages_received_total', 'Messages that sockets have sent.')
  readonly bytesReceived = this.#counter(
    'received_bytes_total',
    'Bytes of the messages that sockets have sent.'
  )
  readonly ignoredMessages = this.#counter(
    'ignored_messages_total',
    'Messages of raw sockets whose tokens do not allow writing. They are ignored.'
  )
  readonly notifications = this.#counter('notifications_total', 'Notifications from the database.')
  /** Closed connections, by reason. */
  readonly closes: Record<string, number> = {}
  readonly #closes = new Counter({
    name: 'pgws_closes_total',
    help: 'Closed sockets, by the reason, and by close code (RFC 6455); "other" for codes that clients or operators make up.',
    labelNames: ['code', 'reason'],
    registers: this.#registers
  })
  readonly slowCloses = this.#counter(
    'slow_closes_total',
    'Sockets closed because their clients did not read, or not fast enough.'
  )
  readonly refusals = this.#byReason('refusals_total', 'Refused handshakes, by the code of the error.')
  readonly publishFailures = this.#byReason(
    'publish_failures_total',
    'Messages that were not published, by the code of the error.'
  )
  readonly lostMessages = this.#byReason(
    'lost_messages_total',
    'Messages from the database that were given up, by the reason.'
  )
  readonly healedGaps = this.#counter(
    'healed_gaps_total',
    'How often notifications of durable messages were missing, and the messages were read from the table.'
  )
  readonly publishSeconds = this.#histogram(
    'publish_duration_seconds',
    'A statement that publishes.',
    SECONDS
  )
  readonly batchSize = this.#histogram(
    'publish_batch_size',
    'Notifications in one statement.',
    [1, 2, 5, 10, 20, 50, 100, 200, 500]
  )
  readonly deliverySeconds = this.#histogram(
    'delivery_duration_seconds',
    'From "message_delivered_at" of an envelope to its arrival from the database.',
    SECONDS
  )
  /** The same, since it was last asked for. */
  readonly deliveryTimes = new Percentiles()

  /**
   * @param node the id of this node
   * @param read is called whenever the metrics are requested
   */
  constructor(node: string, read: () => Readings) {
    collectDefaultMetrics({ register: this.registry })
    new Gauge({
      name: 'pgws_info',
      help: 'The version and the id of this node; the value is 1.',
      labelNames: ['version', 'node'],
      registers: this.#registers
    }).set({ version: VERSION, node }, 1)
    const gauge = (name: string, help: string, value: (readings: Readings) => number | undefined) =>
      new Gauge({
        name: `pgws_${name}`,
        help,
        registers: this.#registers,
        collect() {
          this.set(value(read()) ?? Number.NaN)
        }
      })
    const total = (name: string, help: string, value: (readings: Readings) => number) =>
      new Counter({
        name: `pgws_${name}`,
        help,
        registers: this.#registers,
        collect() {
          this.reset()
          this.inc(value(read()))
        }
      })
    new Gauge({
      name: 'pgws_connections',
      help: 'Open sockets, by transport.',
      labelNames: ['transport'],
      registers: this.#registers,
      collect() {
        for (const [transport, count] of Object.entries(read().connections)) this.set({ transport }, count)
      }
    })
    gauge('channels', 'Channels that sockets have joined.', ({ channels }) => channels)
    gauge('paused_sockets', 'Sockets that are not read for the moment.', ({ pausedSockets }) => pausedSockets)
    gauge(
      'publish_queue_bytes',
      'Bytes that wait for the database.',
      (readings) => readings.publishQueueBytes
    )
    gauge(
      'buffered_bytes',
      'Bytes that wait for clients; what is written to many at once counts once.',
      ({ bufferedBytes }) => bufferedBytes
    )
    gauge('listener_up', '1 while the listener listens.', ({ listenerUp }) => Number(listenerUp))
    gauge(
      'listener_heartbeat_timestamp_seconds',
      'When the listener last proved that notifications arrive.',
      ({ listenerHeartbeat }) => listenerHeartbeat
    )
    gauge(
      'notification_queue_usage_ratio',
      'pg_notification_queue_usage(): how full the queue of PostgreSQL is, 0 to 1.',
      ({ notificationQueueUsage }) => notificationQueueUsage
    )
    gauge(
      'outbox_bytes',
      'The size of what was published from SQL, in the database, as the sequencer sees it.',
      ({ outboxBytes }) => outboxBytes
    )
    gauge('sequencer', 'Whether this node announces what is published from SQL (1 or 0).', ({ sequencer }) =>
      Number(sequencer)
    )
    total('messages_sent_total', 'Messages sent to sockets.', ({ messagesSent }) => messagesSent)
    total(
      'slow_catch_ups_total',
      'How often clients, or subscriptions of SDKs, read too slowly and continued with stored messages.',
      ({ fallenBehind }) => fallenBehind
    )
    total('sent_bytes_total', 'Bytes of the messages sent to sockets.', ({ bytesSent }) => bytesSent)
    total(
      'listener_reconnects_total',
      'How often the listener was replaced.',
      (readings) => readings.listenerReconnects
    )
    total(
      'listener_gap_seconds_total',
      'For how long notifications may have been lost.',
      ({ listenerGap }) => listenerGap
    )
  }

  /** Counts a closed connection. Clients may choose any code, so unknown codes share one series. */
  closed(code: number, reason: string): void {
    this.closes[reason] = (this.closes[reason] ?? 0) + 1
    this.#closes.inc({ code: isKnownCode(code) ? String(code) : 'other', reason })
  }

  #counter(name: string, help: string): Total {
    const counted = new Total()
    new Counter({
      name: `pgws_${name}`,
      help,
      registers: this.#registers,
      collect() {
        this.reset()
        this.inc(counted.total)
      }
    })
    return counted
  }

  #byReason(name: string, help: string): Totals {
    const counted = new Totals()
    new Counter({
      name: `pgws_${name}`,
      help,
      labelNames: ['reason'],
      registers: this.#registers,
      collect() {
        this.reset()
        for (const [reason, total] of Object.entries(counted.totals)) this.inc({ reason }, total)
      }
    })
    return counted
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: `pgws_${name}`, help, buckets, registers: this.#registers })
  }
}

/**
 * Whether a close code belongs to the WebSocket protocol (https://www.iana.org/assignments/websocket) or to Centrifugo's
 * (https://centrifugal.dev/docs/server/codes), which include those of this server.
 */
function isKnownCode(code: number): boolean {
  return (code >= 1000 && code <= 1015) || (code >= 3000 && code <= 3014) || (code >= 3500 && code <= 3509)
}
