import { NOTIFY_PAYLOAD_LIMIT } from './envelope.js'
import { errors } from './errors.js'

/** At most so many notifications, or bytes, in one statement: larger ones gain nothing and hold others up. */
const MAX_BATCH = 500
const MAX_BATCH_BYTES = 1024 * 1024

/** When so many bytes wait for the database, senders are to be paused. */
const HIGH_WATER_BYTES = 4 * 1024 * 1024

interface Group {
  payloads: readonly string[]
  bytes: number
  resolve: () => void
  reject: (error: Error) => void
}

/**
 * Sends notifications: one statement at a time, with all that has come while the last one was under way, so
 * that a lone message is not held back and many share a commit (commits with notifications are serialized in
 * PostgreSQL). The order of the calls is the order of the notifications.
 */
export class Publisher {
  readonly #notify: (payloads: readonly string[]) => Promise<void>
  readonly #queue: Group[] = []
  #queuedBytes = 0
  #running: Promise<void> | undefined
  readonly #paused = new Set<() => void>()

  /** @param notify sends payloads in one transaction, in order; rejects where it was not committed */
  constructor(notify: (payloads: readonly string[]) => Promise<void>) {
    this.#notify = notify
  }

  /** True when senders should wait (see `onDrain`). */
  get overloaded(): boolean {
    return this.#queuedBytes > HIGH_WATER_BYTES
  }

  /** Calls back once, when what waits has shrunk again. */
  onDrain(callback: () => void): void {
    this.#paused.add(callback)
  }

  /**
   * Publishes payloads, all or none.
   * @returns a promise that resolves when the database has committed them
   * @throws PayloadTooLarge (before anything is sent); DatabaseAway
   */
  publish(payloads: readonly string[]): Promise<void> {
    let bytes = 0
    for (const payload of payloads) {
      const length = Buffer.byteLength(payload)
      if (length >= NOTIFY_PAYLOAD_LIMIT) {
        return Promise.reject(new errors.PayloadTooLarge(length, NOTIFY_PAYLOAD_LIMIT - 1))
      }
      bytes += length
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ payloads, bytes, resolve, reject })
      this.#queuedBytes += bytes
      this.#running ??= this.#run()
    })
  }

  /** Resolves when nothing waits any more. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running
  }

  async #run(): Promise<void> {
    // What the same turn of the event loop brings (the frames of one chunk) goes into one statement.
    await null
    while (this.#queue.length > 0) {
      const batch = this.#takeBatch()
      try {
        await this.#notify(batch.flatMap((group) => group.payloads))
        for (const group of batch) group.resolve()
      } catch (error) {
        for (const group of batch) group.reject(error as Error)
      }
      for (const group of batch) this.#queuedBytes -= group.bytes
      if (!this.overloaded) this.#drained()
    }
    this.#running = undefined
  }

  /**
   * The next groups. PostgreSQL folds equal notifications of one transaction into one, so a group that repeats
   * a payload of the batch waits for the next.
   */
  #takeBatch(): Group[] {
    const seen = new Set<string>()
    let bytes = 0
    let end = 0
    for (const group of this.#queue) {
      const full = seen.size + group.payloads.length > MAX_BATCH || bytes + group.bytes > MAX_BATCH_BYTES
      if (end > 0 && (full || group.payloads.some((payload) => seen.has(payload)))) break
      for (const payload of group.payloads) seen.add(payload)
      bytes += group.bytes
      end++
    }
    return this.#queue.splice(0, end)
  }

  #drained(): void {
    const callbacks = [...this.#paused]
    this.#paused.clear()
    for (const callback of callbacks) callback()
  }
}
