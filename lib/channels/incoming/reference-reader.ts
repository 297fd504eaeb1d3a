import { setTimeout as sleep } from 'node:timers/promises'
import { errors, isPermanent, sqlstateOf } from '../../errors.js'
import type { Message, Reference } from '../../messages/index.js'
import type { LossReason } from './losses.js'
import { type Arrival, giveUp, type Item, isUnread } from './queue-item.js'

/** How long to wait before a failed read of referenced messages is repeated, in milliseconds. */
const RETRY_INTERVAL = 100

/** For how long failed reads are repeated before the messages are given up, in milliseconds. */
const PATIENCE = 10_000

/** The class of SQLSTATEs that concern the table, not one of its rows: it does not exist, or it may not be read. */
const ABOUT_THE_TABLE = /^42/

/** The maximum number of references that are read at once. */
const MAX_READ = 100

/**
 * Reads the messages of references to one table, at least the first of them. Answers the reason for a row that does not
 * exist or holds no message. Rejects when the database is unavailable or answers with an error.
 */
export type Resolve = (references: readonly Reference[]) => Promise<Map<Reference, Message | LossReason>>

/** Reads the messages that waiting references refer to, and gives up those that cannot be read. */
export class ReferenceReader {
  readonly #resolve: Resolve
  /** How many references are read at once. It is 1 after an error, because one of several rows may have caused it. */
  #most = MAX_READ

  constructor(resolve: Resolve) {
    this.#resolve = resolve
  }

  /**
   * Reads references that `next` has returned. After a failure, it waits for a moment.
   * @param queue all that waits; it may grow meanwhile
   */
  async read(arrivals: readonly Arrival[], queue: readonly Item[]): Promise<void> {
    try {
      const found = await this.#resolve(arrivals.map(({ reference }) => reference!))
      for (const arrival of arrivals) arrival.outcome = found.get(arrival.reference!)
      this.#most = Math.min(this.#most * 2, MAX_READ)
    } catch (error) {
      const away = error instanceof errors.DatabaseUnavailable
      // One of several rows may have caused the error.
      if (!away) this.#most = 1
      if (isPermanent(error)) {
        if (arrivals.length === 1 || ABOUT_THE_TABLE.test(sqlstateOf(error))) giveUp(arrivals, error)
        return
      }
      const unread = queue.filter((item) => isUnread(item))
      const now = performance.now()
      for (const arrival of unread) arrival.deadline ??= now + PATIENCE
      const failed = away ? unread : arrivals.length === 1 ? arrivals : []
      giveUp(
        failed.filter(({ deadline }) => deadline! <= now),
        error
      )
      await sleep(RETRY_INTERVAL)
    }
  }

  /** The first references that have to be read. They are of one table, because an error may concern one table alone. */
  next(queue: readonly Item[]): Arrival[] {
    const unread: Arrival[] = []
    for (const item of queue) {
      if (!isUnread(item)) continue
      if (unread.length > 0 && item.reference!.table !== unread[0]!.reference!.table) continue
      unread.push(item)
      if (unread.length === this.#most) break
    }
    return unread
  }
}
