import type { EventLog } from '../../events/index.js'
import type { Log } from '../../log.js'
import type { Metrics } from '../../metrics.js'

/** Why messages are not delivered to the readers on this server, and the log line for each reason. */
const TEXTS = {
  malformed: 'dropped a notification or row that is not a message',
  reserved: 'dropped a message with a member "pgws", which only the server\'s own messages may have',
  gone: 'dropped a notification whose message is not in the database',
  unreadable: 'lost a message, because it could not be read from the database',
  unreplayed:
    'lost messages that were sent while the listener was disconnected, because they could not be read from the database',
  diverged:
    'the database lacks messages that were delivered: a standby without them was promoted, or the database was restored',
  unencodable: 'lost a message, because it could not be encoded for its readers'
} as const

/** The value of the label `reason` of `pgws_lost_messages_total`. */
export type LossReason = keyof typeof TEXTS

/** The reasons that mean a failure of the server or the database. The others are the fault of the sender. */
const FAILURES: readonly LossReason[] = ['unreadable', 'unreplayed', 'diverged', 'unencodable']

/** How often one reason is logged, and for how long the health checks report it, in milliseconds. */
const INTERVAL = 60_000

/**
 * Counts messages that are given up, because they must not hold up those behind them. Logs each reason once a minute at
 * most.
 */
export class Losses {
  readonly #metrics: Metrics
  readonly #events: EventLog
  readonly #log: Log
  /** How many were not logged after the last line. */
  readonly #unlogged = new Map<LossReason, number>()
  readonly #lastAt = new Map<LossReason, number>()
  readonly #timers = new Set<NodeJS.Timeout>()

  constructor(metrics: Metrics, events: EventLog, log: Log) {
    this.#metrics = metrics
    this.#events = events
    this.#log = log
  }

  /** @param fields for the log; never anything that a user has written */
  add(reason: LossReason, fields: object = {}): void {
    this.#metrics.lostMessages.inc({ reason })
    this.#events.add('lost-messages', {
      level: FAILURES.includes(reason) ? 'error' : 'warning',
      text: TEXTS[reason],
      reason
    })
    this.#lastAt.set(reason, performance.now())
    const unlogged = this.#unlogged.get(reason)
    if (unlogged === undefined) this.#write(reason, { count: 1, ...fields })
    else this.#unlogged.set(reason, unlogged + 1)
  }

  /** The failures of the last minute. */
  get failures(): LossReason[] {
    const now = performance.now()
    return FAILURES.filter(
      (reason) => now - (this.#lastAt.get(reason) ?? Number.NEGATIVE_INFINITY) < INTERVAL
    )
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer)
  }

  #write(reason: LossReason, fields: object): void {
    this.#log.warn({ reason, ...fields }, TEXTS[reason])
    this.#unlogged.set(reason, 0)
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      const count = this.#unlogged.get(reason)!
      this.#unlogged.delete(reason)
      if (count > 0) this.#write(reason, { count })
    }, INTERVAL).unref()
    this.#timers.add(timer)
  }
}
