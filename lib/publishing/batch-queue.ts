import { setTimeout as sleep } from 'node:timers/promises'
import type { Caller } from '../auth/index.js'
import { asError, errors } from '../errors.js'

/** The maximum number of notifications, and of bytes, in one statement. Larger ones are not faster and delay others. */
export const MAX_BATCH = 500
export const MAX_BATCH_BYTES = 1024 * 1024

/** When this many bytes wait for the database, senders are paused. */
const HIGH_WATER_BYTES = 4 * 1024 * 1024

/** How long to wait before an unavailable database is tried again, in milliseconds. */
const RETRY_INTERVAL = 50

/** A notification to send. */
export interface Notification {
  /** The websocket channel. */
  channel: string
  payload: string
  /** The database channel, if it is not the listen channel. */
  databaseChannel?: string | undefined
  /** The idempotency key of a durable message. One is generated if it is missing. */
  key?: string | undefined
  /** The SQL function that is called for it first. */
  call?: { kind: 'message' | 'connect' | 'disconnect'; caller: Caller } | undefined
}

/** The outcome of a group: an error, or undefined for success. */
export type Outcome = Error | undefined

export interface BatchQueueOptions<Item extends Notification = Notification> {
  /**
   * Sends groups of notifications in one transaction, in order. Resolves with the outcomes of the first groups, at least of
   * one; the other groups were not sent, and are sent again. Rejects with DatabaseUnavailable if nothing was committed and
   * the database should be tried again; with OutcomeUnknown if it may have committed.
   */
  send: (groups: readonly (readonly Item[])[]) => Promise<readonly Outcome[]>
  /** The maximum size of a notification's payload, in bytes. */
  limit: (notification: Item) => number
  /** Whether sending the notification a second time has no effect. */
  repeatable: (notification: Item) => boolean
  /** Whether this node listens. Messages that are published while it does not would not reach its own clients. */
  ready: () => boolean
  /** How long notifications with `wait: 'timeout'` wait for the database, in milliseconds. */
  timeout: number
  /** Is called for each statement with its number of notifications, and how long it took in milliseconds. */
  onBatch: (size: number, milliseconds: number) => void
}

interface Group<Item> {
  notifications: readonly Item[]
  /** Whether it needs a transaction of its own. */
  alone: boolean
  bytes: number
  /** Until when it waits for an unavailable database (`performance.now()`); undefined: it does not wait. */
  deadline: number | undefined
  resolve: () => void
  reject: (error: Error) => void
}

/** How notifications are published. */
export interface PublishHow {
  /** How long they wait for an unavailable database, in milliseconds, or as the option `timeout` says. Default: 0. */
  wait?: number | 'timeout'
  /** Whether they need a transaction of their own. */
  alone?: boolean
}

/** For notifications that wait for an unavailable database as the option `timeout` says. One shared object. */
export const MAY_WAIT: PublishHow = { wait: 'timeout' }

/**
 * Sends notifications with one statement at a time, which takes everything that arrived while the last one was running. So
 * a lone message is not delayed, and many messages share a commit. (PostgreSQL serializes commits with notifications.) The
 * order of the calls is the order of the notifications.
 *
 * While the database is unavailable, notifications that may wait do so in order. Nothing is sent twice: a statement with an
 * unknown outcome is repeated only if each message has a key, so that repeating it has no effect.
 */
export class BatchQueue<Item extends Notification = Notification> {
  readonly #options: BatchQueueOptions<Item>
  #queue: Group<Item>[] = []
  #queuedBytes = 0
  /** Whether the last statement failed because the database is unavailable. */
  #unavailable = false
  #running: Promise<void> | undefined
  readonly #paused = new Set<() => void>()

  constructor(options: BatchQueueOptions<Item>) {
    this.#options = options
  }

  /** Whether senders should wait (see `onDrain`). */
  get overloaded(): boolean {
    // If nothing waits, `onDrain` would never call back.
    return this.#running !== undefined && (this.#queuedBytes > HIGH_WATER_BYTES || !this.#open)
  }

  /** How many bytes wait for the database or are being sent to it. */
  get queuedBytes(): number {
    return this.#queuedBytes
  }

  /** How many senders are paused. */
  get pausedSenders(): number {
    return this.#paused.size
  }

  /** Calls back once, when the queue has shrunk. */
  onDrain(callback: () => void): void {
    this.#paused.add(callback)
  }

  /**
   * Publishes notifications: all, or none.
   * @returns a promise that resolves when the database has committed them
   * @throws PayloadTooLarge (before anything is sent); DatabaseUnavailable: not published; NotAccepted;
   *   OutcomeUnknown
   */
  publish(notifications: readonly Item[], { wait = 0, alone = false }: PublishHow = {}): Promise<void> {
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
      const timeout = wait === 'timeout' ? this.#options.timeout : wait
      const deadline = wait === 0 ? undefined : performance.now() + timeout
      this.#queue.push({ notifications, alone, bytes, deadline, resolve, reject })
      this.#queuedBytes += bytes
      this.#running ??= this.#run()
    })
  }

  /** Resolves when the queue is empty. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running
  }

  get #open(): boolean {
    return !this.#unavailable && this.#options.ready()
  }

  async #run(): Promise<void> {
    // Notifications from one turn of the event loop (the frames of a chunk) share one statement.
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

  async #send(batch: Group<Item>[]): Promise<void> {
    const begun = performance.now()
    try {
      const outcomes = await this.#options.send(batch.map(({ notifications }) => notifications))
      this.#unavailable = false
      const sent = batch.slice(0, outcomes.length)
      const size = sent.reduce((count, { notifications }) => count + notifications.length, 0)
      this.#options.onBatch(size, performance.now() - begun)
      for (const [index, group] of sent.entries()) this.#settle(group, outcomes[index])
      if (sent.length < batch.length) this.#queue = [...batch.slice(sent.length), ...this.#queue]
    } catch (error) {
      if (error instanceof errors.DatabaseUnavailable || error instanceof errors.OutcomeUnknown) {
        this.#unavailable = true
        const again = batch.filter((group) => this.#mayRepeat(group, error))
        for (const group of batch) if (!again.includes(group)) this.#settle(group, error)
        this.#queue = [...again, ...this.#queue]
        return
      }
      this.#unavailable = false
      if (batch.length === 1) {
        this.#settle(batch[0]!, asError(error))
        return
      }
      // One of them causes the error. The others must not fail with it.
      for (const group of batch) group.alone = true
      this.#queue = [...batch, ...this.#queue]
    }
  }

  /** Whether a group may be sent again: it was not committed, or repeating it has no effect. */
  #mayRepeat({ deadline, notifications }: Group<Item>, error: Error): boolean {
    if (deadline === undefined) return false
    return error instanceof errors.DatabaseUnavailable || notifications.every(this.#options.repeatable)
  }

  #settle(group: Group<Item>, error?: Error): void {
    this.#queuedBytes -= group.bytes
    if (error === undefined) group.resolve()
    else group.reject(error)
  }

  /** Rejects groups that have waited long enough, or must not wait. */
  #dropOverdue(): void {
    const now = performance.now()
    const overdue = (group: Group<Item>) => group.deadline === undefined || group.deadline <= now
    for (const group of this.#queue.filter(overdue)) {
      this.#settle(
        group,
        new errors.DatabaseUnavailable('it did not come back within the time that the message may wait')
      )
    }
    this.#queue = this.#queue.filter((group) => !overdue(group))
  }

  /**
   * Takes the next groups. PostgreSQL delivers equal notifications of a transaction only once, so a group that repeats a
   * raw payload waits for the next batch. Envelopes are never equal (see messages/envelope.ts).
   */
  #takeBatch(): Group<Item>[] {
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
