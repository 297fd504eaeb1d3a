import { setTimeout as sleep } from 'node:timers/promises'
import type { Caller } from '../auth/index.js'
import { errors } from '../errors.js'

/** At most so many notifications, or bytes, in one statement: larger ones gain nothing and hold others up. */
export const MAX_BATCH = 500
export const MAX_BATCH_BYTES = 1024 * 1024

/** When so many bytes wait for the database, senders are to be paused. */
const HIGH_WATER_BYTES = 4 * 1024 * 1024

/** How long to wait before the database, which was away, is tried again, in milliseconds. */
const RETRY_INTERVAL = 50

/** What is sent. */
export interface Notification {
  /** The websocket channel. */
  channel: string
  payload: string
  /** The database channel, where it is not the listen channel. */
  databaseChannel?: string | undefined
  /** What makes a durable message that is sent again the same one; made up where it is missing. */
  key?: string | undefined
  /** A function of the database's owner is called for it first. */
  call?: { kind: 'message' | 'connect' | 'disconnect'; caller: Caller } | undefined
}

/** What became of a group. */
export type Outcome = Error | undefined

export interface BatchQueueOptions {
  /**
   * Sends groups of notifications in one transaction, in order. Resolves with what became of each, at least of the
   * first; those behind them are still to be sent. Rejects with DatabaseUnavailable where it was surely not committed and the
   * database is to be tried again, and with OutcomeUnknown where that cannot be known.
   */
  send: (groups: readonly (readonly Notification[])[]) => Promise<readonly Outcome[]>
  /** The largest payload that a notification may have, in bytes. */
  limit: (notification: Notification) => number
  /** Whether sending it a second time does nothing. */
  repeatable: (notification: Notification) => boolean
  /** Whether this node listens: what is published while it does not would reach nobody here. */
  ready: () => boolean
  /** How long what may wait waits for the database, in milliseconds. */
  timeout: number
  /** Told of each statement: how many notifications, how many milliseconds. */
  onBatch: (size: number, milliseconds: number) => void
}

interface Group {
  notifications: readonly Notification[]
  /** In a transaction of its own. */
  alone: boolean
  bytes: number
  /** Until when it waits for a database that is away, as `performance.now()` has it; undefined: not at all. */
  deadline: number | undefined
  resolve: () => void
  reject: (error: Error) => void
}

/** How notifications are published. */
export interface PublishHow {
  /** How long they may wait for a database that is away, in milliseconds, or as `timeout` says. Default: 0. */
  wait?: number | 'timeout'
  /** In a transaction that has no others. */
  alone?: boolean
}

/** What may wait for a database that is away, as `timeout` says. One object for all. */
export const MAY_WAIT: PublishHow = { wait: 'timeout' }

/**
 * Sends notifications: one statement at a time, with all that has come while the last one was under way, so
 * that a lone message is not held back and many share a commit (commits with notifications are serialized in
 * PostgreSQL). The order of the calls is the order of the notifications.
 *
 * While the database is away, what may wait waits in order. Nothing is sent twice: a statement whose outcome is
 * unknown is repeated only where a key for each message makes the second time do nothing.
 */
export class BatchQueue {
  readonly #options: BatchQueueOptions
  #queue: Group[] = []
  #queuedBytes = 0
  /** The database did not take the last statement. */
  #away = false
  #running: Promise<void> | undefined
  readonly #paused = new Set<() => void>()

  constructor(options: BatchQueueOptions) {
    this.#options = options
  }

  /** True when senders should wait (see `onDrain`). */
  get overloaded(): boolean {
    // Where nothing waits nobody would call back.
    return this.#running !== undefined && (this.#queuedBytes > HIGH_WATER_BYTES || !this.#open)
  }

  /** How many bytes wait for the database, or are on their way to it. */
  get queuedBytes(): number {
    return this.#queuedBytes
  }

  /** How many senders are paused. */
  get pausedSenders(): number {
    return this.#paused.size
  }

  /** Calls back once, when what waits has shrunk again. */
  onDrain(callback: () => void): void {
    this.#paused.add(callback)
  }

  /**
   * Publishes notifications, all or none.
   * @returns a promise that resolves when the database has committed them
   * @throws PayloadTooLarge (before anything is sent); DatabaseUnavailable: not published; NotAccepted;
   *   OutcomeUnknown
   */
  publish(
    notifications: readonly Notification[],
    { wait = 0, alone = false }: PublishHow = {}
  ): Promise<void> {
    let bytes = 0
    for (const notification of notifications) {
      const length = Buffer.byteLength(notification.payload)
      const limit = this.#options.limit(notification)
      if (length > limit) return Promise.reject(new errors.PayloadTooLarge(length, limit))
      bytes += length
    }
    if (wait === 0 && !this.#options.ready()) {
      return Promise.reject(new errors.DatabaseUnavailable('this server is not connected to it'))
    }
    return new Promise((resolve, reject) => {
      const patience = wait === 'timeout' ? this.#options.timeout : wait
      const deadline = wait === 0 ? undefined : performance.now() + patience
      this.#queue.push({ notifications, alone, bytes, deadline, resolve, reject })
      this.#queuedBytes += bytes
      this.#running ??= this.#run()
    })
  }

  /** Resolves when nothing waits any more. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running
  }

  get #open(): boolean {
    return !this.#away && this.#options.ready()
  }

  async #run(): Promise<void> {
    // What the same turn of the event loop brings (the frames of one chunk) goes into one statement.
    await null
    while (this.#queue.length > 0) {
      if (this.#options.ready()) await this.#send(this.#takeBatch())
      if (!this.#open) {
        this.#dropOverdue()
        if (this.#queue.length > 0) await sleep(RETRY_INTERVAL)
      }
      if (!this.overloaded || this.#queue.length === 0) this.#drained()
    }
    this.#running = undefined
  }

  async #send(batch: Group[]): Promise<void> {
    const begun = performance.now()
    try {
      const outcomes = await this.#options.send(batch.map(({ notifications }) => notifications))
      this.#away = false
      const sent = batch.slice(0, outcomes.length)
      const size = sent.reduce((count, { notifications }) => count + notifications.length, 0)
      this.#options.onBatch(size, performance.now() - begun)
      for (const [index, group] of sent.entries()) this.#settle(group, outcomes[index])
      if (sent.length < batch.length) this.#queue = [...batch.slice(sent.length), ...this.#queue]
    } catch (error) {
      if (error instanceof errors.DatabaseUnavailable || error instanceof errors.OutcomeUnknown) {
        this.#away = true
        const again = batch.filter((group) => this.#mayRepeat(group, error))
        for (const group of batch) if (!again.includes(group)) this.#settle(group, error)
        this.#queue = [...again, ...this.#queue]
        return
      }
      this.#away = false
      if (batch.length === 1) {
        this.#settle(batch[0]!, error as Error)
        return
      }
      // One of them is at fault, and must not take the others with it.
      for (const group of batch) group.alone = true
      this.#queue = [...batch, ...this.#queue]
    }
  }

  /** What waits may be sent again: if it was not committed, or if it makes no difference. */
  #mayRepeat({ deadline, notifications }: Group, error: Error): boolean {
    if (deadline === undefined) return false
    return error instanceof errors.DatabaseUnavailable || notifications.every(this.#options.repeatable)
  }

  #settle(group: Group, error?: Error): void {
    this.#queuedBytes -= group.bytes
    if (error === undefined) group.resolve()
    else group.reject(error)
  }

  /** What has waited long enough, or may not wait, is not published. */
  #dropOverdue(): void {
    const now = performance.now()
    const overdue = (group: Group) => group.deadline === undefined || group.deadline <= now
    for (const group of this.#queue.filter(overdue)) {
      this.#settle(
        group,
        new errors.DatabaseUnavailable('it did not come back within the time that the message may wait')
      )
    }
    this.#queue = this.#queue.filter((group) => !overdue(group))
  }

  /**
   * The next groups. PostgreSQL folds equal notifications of one transaction into one, so a group that repeats a raw
   * payload of the batch waits for the next. Envelopes are never equal (see messages/envelope.ts).
   */
  #takeBatch(): Group[] {
    const seen = new Set<string>()
    const isRaw = ({ databaseChannel }: Notification) => databaseChannel !== undefined
    const isRepeated = (one: Notification) => isRaw(one) && seen.has(one.payload)
    let size = 0
    let bytes = 0
    let end = 0
    for (const group of this.#queue) {
      const { notifications } = group
      const full = size + notifications.length > MAX_BATCH || bytes + group.bytes > MAX_BATCH_BYTES
      if (end > 0 && (full || group.alone || notifications.some(isRepeated))) break
      for (const one of notifications) if (isRaw(one)) seen.add(one.payload)
      size += notifications.length
      bytes += group.bytes
      end++
      if (group.alone) break
    }
    return this.#queue.splice(0, end)
  }

  #drained(): void {
    const callbacks = [...this.#paused]
    this.#paused.clear()
    for (const callback of callbacks) callback()
  }
}
