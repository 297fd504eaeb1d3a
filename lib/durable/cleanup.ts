import type { Log } from '../log.js'
import type { Query } from '../postgres/index.js'
import type { RetentionRules } from './retention-rules.js'

/** How often expired messages are deleted, in milliseconds, and how many in one step. */
const INTERVAL = 10_000
const ROWS = 5000

export interface CleanupOptions {
  query: Query
  durable: RetentionRules
  log: Log
}

/** Deletes expired messages in small steps. Of several servers, only one does it at a time. */
export class Cleanup {
  readonly #options: CleanupOptions
  #timer: NodeJS.Timeout | undefined
  #working = false

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
    const { query, durable, log } = this.#options
    if (!durable.installed || this.#working) return
    this.#working = true
    try {
      for (let removed = ROWS; removed >= ROWS && this.#timer !== undefined; ) {
        const { rows } = await query<{ removed: number | null }>('select pgws.clean($1) as removed', [ROWS])
        removed = rows[0]!.removed ?? 0
      }
    } catch (error) {
      log.warn({ err: error }, 'could not delete old messages')
    } finally {
      this.#working = false
    }
  }
}
