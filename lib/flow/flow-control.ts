import type { Duplex } from 'node:stream'

/** A client that is behind may have so many times `maxBufferedBytes` waiting for it, whatever it takes. */
const HARD_LIMIT = 16

/** How often those for whom something waits are looked at, in milliseconds. */
const INTERVAL = 250

/** Where too much waits for all, so much of it goes that not each message leads to the next look at all of them. */
const RELIEF = 0.9

/** Something that takes bytes, and may take them more slowly than they come. */
export interface Receiver {
  /** False once it is being closed. */
  readonly open: boolean
  /** How many bytes wait for it. */
  readonly bufferedBytes: number
  /** How many bytes were ever written to it. */
  readonly writtenBytes: number
  /** What the system has not taken of the write under way, in bytes: where it changes, the client reads. */
  readonly unsentBytes: number
  /** What waits for it in a copy of its own (encrypted, compressed), in bytes. */
  readonly copiedBytes: number
  /** What is known of it while something waits. */
  waiting: Waiting | undefined
  /** Closes it as one that is too slow (3008). */
  closeSlow(): void
  /** Ends it at once, with all that waits for it. */
  terminate(): void
}

/** Bytes that wait for one client, or for many. */
interface Chunk {
  readonly length: number
  clients: number
}

/** A chunk in the queue of one client. */
interface Queued {
  readonly chunk: Chunk
  /** How many bytes were ever written to the client with it. */
  readonly end: number
  next: Queued | undefined
}

/** What is known of a client for which something waits. */
export interface Waiting {
  first: Queued | undefined
  last: Queued | undefined
  /** What it had taken, and the system had not, when it was looked at last. */
  takenBytes: number
  unsentBytes: number
  copiedBytes: number
  /** At how many looks in a row it had taken nothing. */
  stalled: number
  /** At how many looks in a row it was behind; undefined: it is not. */
  behind: number | undefined
}

export interface FlowControlOptions {
  /** How many bytes may wait for a client that takes nothing. */
  maxBufferedBytes: number
  /** How many bytes may wait for all clients; what is written to many at once counts once. */
  maxTotalBufferedBytes: number
  /**
   * How long a client that reads may be behind, in milliseconds. One that takes nothing for half of that does not read:
   * the system says that it has taken something for each third of its buffer only, which is some 1.3 MB in a fast network.
   */
  slowTimeout: number
  /** Told of each client that is closed, with the bytes that wait for it, and why. */
  onSlow: (bufferedBytes: number, reason: SlowReason) => void
}

/** It takes nothing; it is behind for too long, or by too much; too much waits for all of them. */
export type SlowReason = 'stalled' | 'behind' | 'limit' | 'total'

/**
 * Decides how much may wait for clients, whatever language they speak. More than `maxBufferedBytes` may wait for a
 * client that reads, for some seconds: a burst at full speed is no fault of its readers. Whether it reads shows in what
 * it has taken since the last look; looks are counted, not timed, so that our own pauses are nobody's fault.
 *
 * Nothing is kept of clients for which nothing waits.
 */
export class FlowControl {
  readonly maxBufferedBytes: number
  readonly #options: FlowControlOptions
  readonly #receivers = new Set<Receiver>()
  #totalBytes = 0
  /** Readers of a channel get the same bytes, one after the other. */
  #lastBytes: Buffer | undefined
  #lastChunk: Chunk | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(options: FlowControlOptions) {
    this.#options = options
    this.maxBufferedBytes = options.maxBufferedBytes
  }

  /** How many bytes wait for all clients, as of the last look; what is written to many at once counts once. */
  get totalBytes(): number {
    return this.#totalBytes
  }

  /**
   * Whether more may wait for a client for which some bytes wait already, and which would then be over
   * `maxBufferedBytes`.
   * @param length how many bytes more
   * @returns false where it was closed instead
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
   * To be called after bytes were written to a client of which some wait.
   * @param bytes one object for all who get the same ones
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
    if (this.#totalBytes > this.#options.maxTotalBufferedBytes) this.#relieve()
  }

  /** Closes a client as one that is too slow. */
  close(receiver: Receiver, reason: SlowReason): void {
    this.#options.onSlow(receiver.bufferedBytes, reason)
    receiver.closeSlow()
  }

  /** A client is gone. */
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
    this.#timer ??= setInterval(() => this.#look(), INTERVAL).unref()
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

  /** What a client has taken does not wait any more. */
  #release(waiting: Waiting, takenBytes: number): void {
    let { first } = waiting
    while (first !== undefined && first.end <= takenBytes) {
      if (--first.chunk.clients === 0) this.#totalBytes -= first.chunk.length
      first = first.next
    }
    waiting.first = first
    if (first === undefined) waiting.last = undefined
  }

  #look(): void {
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
   * Counts what waits for a client now.
   * @returns undefined where nothing does any more
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

  /** Ends the slowest where too much waits for all of them: first who takes nothing, then for whom most waits. */
  #relieve(): void {
    const bearable = this.#options.maxTotalBufferedBytes * RELIEF
    for (const receiver of this.#receivers) this.#settle(receiver)
    if (this.#totalBytes <= bearable) return
    const slowness = ({ open, waiting }: Receiver) => (open ? Math.min(waiting!.stalled, 1) : 2)
    const slowest = [...this.#receivers].sort(
      (one, other) => slowness(other) - slowness(one) || other.bufferedBytes - one.bufferedBytes
    )
    for (const receiver of slowest) {
      if (this.#totalBytes <= bearable) return
      if (receiver.open) this.close(receiver, 'total')
      receiver.terminate()
      this.forget(receiver)
    }
  }
}

/**
 * What the system has not taken of a socket's write under way, in bytes; 0 for what is no socket of the network.
 *
 * The one private member of Node.js that we read, because it has no public name for it: `writableLength` changes when all
 * of that write is done, which may be 16 MiB. Its own socket timeouts look at it (`_onTimeout` in lib/net.js). Where it
 * is missing, a client that reads a large write slowly seems to take nothing.
 */
export function unsentBytesOf(socket: Duplex | null | undefined): number {
  const { _handle: handle } = (socket ?? {}) as { _handle?: { writeQueueSize?: number } | null }
  return handle?.writeQueueSize ?? 0
}
