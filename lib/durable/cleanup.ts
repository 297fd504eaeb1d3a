import { messageOf } from '../errors.js'
import type { EventLog } from '../events/index.js'
import type { Log } from '../log.js'
import type { Query } from '../postgres/index.js'
import type { RetentionRules } from './retention-rules.js'

/** How often expired messages are deleted, in milliseconds, and how many in one step. */
const INTERVAL = 10_000
const ROWS = 5000

/** How often the events say how many were deleted, in milliseconds. */
const REPORT_INTERVAL = 60_000

export interface CleanupOptions {
  query: Query
  durable: RetentionRules
  events: EventLog
  log: Log
}

/** Deletes expired messages in small steps. Of several servers, only one does it at a time. */
export class Cleanup {
  readonly #options: CleanupOptions
  #timer: NodeJS.Timeout | undefined
  #working = false
  /** How many were deleted of which there is no event yet. */
  #unreported = 0
  #reportedAt = Number.NEGATIVE_INFINITY

  constructor(options: CleanupOptions) {
    this.#options = options
  }

  start(): void {
    this.#timer ??= setInterval(() => this.#clean(), INTERVAL).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  async #clean(): Promise<void> {
    const { query, durable, events, log } = this.#options
    if (!durable.installed || this.#working) return
    this.#working = true
    try {
      for (let removed = ROWS; removed >= ROWS && this.#timer !== undefined; ) {
        const { rows } = await query<{ removed: number | null }>('select pgws.clean($1) as removed', [ROWS])
        removed = rows[0]!.removed ?? 0
        this.#unreported += removed
      }
      this.#report()
    } catch (error) {
      log.warn({ err: error }, 'could not delete old messages')
      events.add('retention', {
        level: 'warning',
        text: `could not delete old messages: ${messageOf(error)}`,
        reason: 'failed'
      })
    } finally {
      this.#working = false
    }
  }

  #report(): void {
    const count = this.#unreported
    if (count === 0 || performance.now() - this.#reportedAt < REPORT_INTERVAL) return
    this.#unreported = 0
    this.#reportedAt = performance.now()
    const text = `deleted ${count} ${count === 1 ? 'message' : 'messages'} whose retention was over`
    this.#options.events.add('retention', { text, reason: 'deleted', count })
  }
}
