import type { Log } from '../log.js'
import type { Metrics } from '../metrics.js'

/** Why messages are not delivered to readers of this server, and what the log says of it. */
const TEXTS = {
  malformed: 'a notification, or a row, is no message: it is dropped',
  reserved: 'a message has a member "pgws", as only the server\'s own words have: it is dropped',
  gone: 'a notification refers to a message that is not in the database: it is dropped',
  unreadable: 'a message could not be read from the database: it is lost here',
  unreplayed:
    'what was missed while the listener was away could not be read from the database: it is lost here',
  diverged:
    'the database has other messages than those that were delivered: a standby that lacked some was promoted, or it was restored',
  unencodable: 'a message could not be written for its readers: it is lost here'
} as const

/** The value of the label `reason` of `pgws_lost_messages_total`. */
export type LossReason = keyof typeof TEXTS

/** Those that mean that something does not work, whatever the database's roles send. */
const FAILURES: readonly LossReason[] = ['unreadable', 'unreplayed', 'diverged', 'unencodable']

/** How often one reason is logged, and for how long health tells of it, in milliseconds. */
const INTERVAL = 60_000

/** Messages that are given up, so that they hold up none behind them: counted, and logged once a minute and reason. */
export class Losses {
  readonly #metrics: Metrics
  readonly #log: Log
  /** How many were not logged, since the line that was. */
  readonly #unlogged = new Map<LossReason, number>()
  readonly #lastAt = new Map<LossReason, number>()
  readonly #timers = new Set<NodeJS.Timeout>()

  constructor(metrics: Metrics, log: Log) {
    this.#metrics = metrics
    this.#log = log
  }

  /** @param fields for the log; nothing of what a user has written */
  add(reason: LossReason, fields: object = {}): void {
    this.#metrics.lostMessages.inc({ reason })
    this.#lastAt.set(reason, performance.now())
    const unlogged = this.#unlogged.get(reason)
    if (unlogged === undefined) this.#write(reason, { count: 1, ...fields })
    else this.#unlogged.set(reason, unlogged + 1)
  }

  /** What did not work within the last minute. */
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
