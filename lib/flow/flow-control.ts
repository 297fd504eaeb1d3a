import type { Duplex } from 'node:stream'

/** The maximum for a client that reads, as a multiple of `maxBufferedBytes`. */
const HARD_LIMIT = 16

/** How often clients with waiting bytes are checked, in milliseconds. */
const INTERVAL = 250

/**
 * Above the total limit, clients are closed until this fraction of it is left. Otherwise each message would cause another
 * check of all clients.
 */
const REDUCED_TO = 0.9

/** Up to this fraction of the total limit, stored messages are written to clients that catch up. */
const ROOM = 0.5

/** A receiver of bytes that may read them more slowly than they arrive. */
export interface Receiver {
  /** False once it is being closed. */
  readonly open: boolean
  /** How many bytes wait for it. */
  readonly bufferedBytes: number
  /** How many bytes were written to it in total. */
  readonly writtenBytes: number
  /** The bytes of the current write that the operating system has not taken yet. If the number changes, the client reads. */
  readonly unsentBytes: number
  /** The waiting bytes that are a copy of its own (encrypted or compressed). */
  readonly copiedBytes: number
  /** The state of flow control while bytes wait. */
  waiting: Waiting | undefined
  /** Closes it as one that is too slow (3008). */
  closeSlow(): void
  /** Ends it at once, and discards what waits for it. */
  terminate(): void
}

/** A buffer that waits for one client or for several. */
interface Chunk {
  readonly length: number
  clients: number
}

/** A chunk in the queue of one client. */
interface Queued {
  readonly chunk: Chunk
  /** The client's `writtenBytes` after it. */
  readonly end: number
  next: Queued | undefined
}

/** The state of a client with waiting bytes. */
export interface Waiting {
  first: Queued | undefined
  last: Queued | undefined
  /** The numbers of the last check: bytes that the client had taken, bytes that the system had not taken, bytes in copies. */
  takenBytes: number
  unsentBytes: number
  copiedBytes: number
  /** The number of consecutive checks in which it had taken nothing. */
  stalled: number
  /** The number of consecutive checks in which it was behind; undefined: it is not behind. */
  behind: number | undefined
}

export interface FlowControlOptions {
  /** How many bytes may wait for a client that does not read. */
  maxBufferedBytes: number
  /** How many bytes may wait for all clients. A buffer that is written to several clients counts once. */
  maxTotalBufferedBytes: number
  /**
   * How long a client that reads may be behind, in milliseconds. A client that takes nothing for half of that time does
   * not read. (The operating system reports progress only for each third of its buffer, some 1.3 MB in a fast network.)
   */
  slowTimeout: number
  /** Is called for each client that is closed, with the bytes that wait for it and the reason. */
  onSlow: (bufferedBytes: number, reason: SlowReason) => void
}

/**
 * `stalled`: it does not read. `behind`: for too long. `limit`: too much waits for it. `total`: too much for all clients.
 * `expired`: it would continue with stored messages, but some have been deleted.
 */
export type SlowReason = 'stalled' | 'behind' | 'limit' | 'total' | 'expired'

/**
 * Limits how much may wait for clients, for all protocols. More than `maxBufferedBytes` may wait for some seconds for a
 * client that reads, because readers cannot help a burst at full speed. A client reads if it has taken bytes between two
 * checks. Checks are counted, not timed, so that a pause of this process is not held against clients.
 *
 * It stores nothing for clients without waiting bytes.
 */
export class FlowControl {
  readonly maxBufferedBytes: number
  readonly #options: FlowControlOptions
  readonly #receivers = new Set<Receiver>()
  #totalBytes = 0
  #fallenBehind = 0
  /** The readers of a channel get the same buffer, one after the other. */
  #lastBytes: Buffer | undefined
  #lastChunk: Chunk | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(options: FlowControlOptions) {
    this.#options = options
    this.maxBufferedBytes = options.maxBufferedBytes
  }

  /** How many bytes wait for all clients, as of the last check. A buffer that is written to several clients counts once. */
  get totalBytes(): number {
    return this.#totalBytes
  }

  /** How often a client was too slow and continued with stored messages. */
  get fallenBehind(): number {
    return this.#fallenBehind
  }

  /** Whether less than half of what may wait for all clients does. Only then stored messages are read for slow ones. */
  get hasRoom(): boolean {
    return this.#totalBytes <= this.#options.maxTotalBufferedBytes * ROOM
  }

  /** To be called for a client that continues with stored messages, so that it is not closed for being slow. */
  fellBehind({ waiting }: Receiver): void {
    this.#fallenBehind++
    if (waiting !== undefined) waiting.behind = undefined
  }

  /**
   * For how long a client has taken nothing, in milliseconds, as of the last check; 0 if nothing waits for it.
   */
  stalledFor({ waiting }: Receiver): number {
    return waiting === undefined ? 0 : waiting.stalled * INTERVAL
  }

  /**
   * Whether more may wait for a client that would then have more than `maxBufferedBytes` waiting.
   * @param length how many more bytes
   * @returns false if the client was closed instead
   */
  mayWait(receiver: Receiver, length: number): boolean {
    if (receiver.bufferedBytes + length > HARD_LIMIT * this.maxBufferedBytes) {
      this.close(receiver, 'limit')
      return false
    }
    const waiting = this.#waitingOf(receiver)
    waiting.behind ??= 0
    return true
  }

  /**
   * To be called after a write to a client of which some bytes wait.
   * @param bytes the same object for all clients that get the same bytes
   */
  wrote(receiver: Receiver, bytes: Buffer): void {
    const waiting = this.#waitingOf(receiver)
    this.#release(waiting, receiver.writtenBytes - receiver.bufferedBytes)
    const chunk = this.#chunkOf(bytes)
    if (chunk.clients++ === 0) this.#totalBytes += chunk.length
    const queued: Queued = { chunk, end: receiver.writtenBytes, next: undefined }
    if (waiting.last === undefined) waiting.first = queued
    else waiting.last.next = queued
    waiting.last = queued
    if (this.#totalBytes > this.#options.maxTotalBufferedBytes) this.#closeSlowest()
  }

  /** Closes a client because it is too slow. */
  close(receiver: Receiver, reason: SlowReason): void {
    this.#options.onSlow(receiver.bufferedBytes, reason)
    receiver.closeSlow()
  }

  /** Forgets a client that has ended. */
  forget(receiver: Receiver): void {
    const { waiting } = receiver
    if (waiting === undefined) return
    this.#release(waiting, Number.POSITIVE_INFINITY)
    this.#totalBytes -= waiting.copiedBytes
    receiver.waiting = undefined
    this.#receivers.delete(receiver)
    if (this.#receivers.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#lastBytes = undefined
  }

  #waitingOf(receiver: Receiver): Waiting {
    const { waiting } = receiver
    if (waiting !== undefined) return waiting
    this.#receivers.add(receiver)
    this.#timer ??= setInterval(() => this.#check(), INTERVAL).unref()
    receiver.waiting = {
      first: undefined,
      last: undefined,
      takenBytes: receiver.writtenBytes - receiver.bufferedBytes,
      unsentBytes: receiver.unsentBytes,
      copiedBytes: 0,
      stalled: 0,
      behind: undefined
    }
    return receiver.waiting
  }

  #chunkOf(bytes: Buffer): Chunk {
    if (bytes !== this.#lastBytes || this.#lastChunk === undefined) {
      this.#lastBytes = bytes
      this.#lastChunk = { length: bytes.length, clients: 0 }
    }
    return this.#lastChunk
  }

  /** Removes what a client has taken from what waits for it. */
  #release(waiting: Waiting, takenBytes: number): void {
    let { first } = waiting
    while (first !== undefined && first.end <= takenBytes) {
      if (--first.chunk.clients === 0) this.#totalBytes -= first.chunk.length
      first = first.next
    }
    waiting.first = first
    if (first === undefined) waiting.last = undefined
  }

  #check(): void {
    const { slowTimeout } = this.#options
    for (const receiver of this.#receivers) {
      const waiting = this.#settle(receiver)
      if (waiting === undefined) continue
      const { bufferedBytes, writtenBytes, unsentBytes } = receiver
      const takenBytes = writtenBytes - bufferedBytes
      const reads = takenBytes > waiting.takenBytes || unsentBytes !== waiting.unsentBytes
      waiting.stalled = reads ? 0 : waiting.stalled + 1
      waiting.takenBytes = takenBytes
      waiting.unsentBytes = unsentBytes
      if (waiting.behind === undefined) continue
      waiting.behind = bufferedBytes > this.maxBufferedBytes ? waiting.behind + 1 : undefined
      if (waiting.behind === undefined || !receiver.open) continue
      if (waiting.stalled * INTERVAL >= slowTimeout / 2) this.close(receiver, 'stalled')
      else if (waiting.behind * INTERVAL >= slowTimeout) this.close(receiver, 'behind')
    }
  }

  /**
   * Updates what waits for a client.
   * @returns undefined if nothing waits any more
   */
  #settle(receiver: Receiver): Waiting | undefined {
    const { bufferedBytes, copiedBytes } = receiver
    if (bufferedBytes === 0) {
      this.forget(receiver)
      return undefined
    }
    const waiting = receiver.waiting!
    this.#release(waiting, receiver.writtenBytes - bufferedBytes)
    this.#totalBytes += copiedBytes - waiting.copiedBytes
    waiting.copiedBytes = copiedBytes
    return waiting
  }

  /** Ends the slowest clients if too much waits in total: first those that do not read, then those with most waiting. */
  #closeSlowest(): void {
    const limit = this.#options.maxTotalBufferedBytes * REDUCED_TO
    for (const receiver of this.#receivers) this.#settle(receiver)
    if (this.#totalBytes <= limit) return
    const slowness = ({ open, waiting }: Receiver) => (open ? Math.min(waiting!.stalled, 1) : 2)
    const slowest = [...this.#receivers].sort(
      (one, other) => slowness(other) - slowness(one) || other.bufferedBytes - one.bufferedBytes
    )
    for (const receiver of slowest) {
      if (this.#totalBytes <= limit) return
      if (receiver.open) this.close(receiver, 'total')
      receiver.terminate()
      this.forget(receiver)
    }
  }
}

/**
 * The bytes of a socket's current write that the operating system has not taken yet; 0 for a stream that is not a network
 * socket.
 *
 * This reads a private member of Node.js, because there is no public one: `writableLength` changes only when the whole
 * write is done, which may be 16 MiB. Node.js uses it for its own socket timeouts (`_onTimeout` in lib/net.js). Without
 * it, a client that reads a large write slowly would seem not to read.
 */
export function unsentBytesOf(socket: Duplex | null | undefined): number {
  const { _handle: handle } = (socket ?? {}) as { _handle?: { writeQueueSize?: number } | null }
  return handle?.writeQueueSize ?? 0
}
