import { setTimeout as sleep } from 'node:timers/promises'
import { errors, messageOf } from '../errors.js'
import type { Message } from './wire.js'

/** How long to wait before rows are asked for again that could not be read, in milliseconds. */
const RETRY_INTERVAL = 100

/** At most so many rows are read at once: each may be large. */
const MAX_ROWS = 100

/** What a notification says. */
export interface Received {
  /** Undefined until the row is read. */
  message: Message | undefined
  uid: string
  /** The row that holds the message. */
  attachmentId?: string | undefined
  /** The place of a packet that is kept. */
  position?: number | undefined
  /** The sender's number. */
  n?: number | undefined
}

/** What stands in a notification beside its message. */
interface Header {
  uid: string
  nsp?: string
  attachmentId?: unknown
  position?: number
  n?: number
}

export interface InboxOptions {
  nsp: string
  /** Packets of our own are not read; their positions count. */
  uid: string
  deliver: (received: Received) => void
  /** Reads rows, many at once. Rejects with NotAccepted where the database will never give them. */
  read: (ids: readonly string[]) => Promise<Map<string, Message>>
  onError: (error: Error) => void
}

/**
 * A namespace's messages in the order of their notifications, although some must first be read from a table; and, after
 * the listener was away, the replay of what it missed before anything newer.
 */
export class Inbox {
  readonly #options: InboxOptions
  #queue: (Received | (() => void))[] = []
  #working = false
  #held = false
  #closed = false
  /** Up to here packets were replayed; their notifications may still come. */
  #replayedTo = 0

  readonly #ownStart: string

  constructor(options: InboxOptions) {
    this.#options = options
    this.#ownStart = JSON.stringify({ uid: options.uid }).slice(0, -1)
  }

  receive(payload: string): void {
    // The half of a busy node's messages need not be parsed. (Those that are kept begin with their position.)
    if (payload.startsWith(this.#ownStart)) return
    let header: Header
    try {
      header = readHeader(JSON.parse(payload))
    } catch (error) {
      this.#options.onError(new errors.SocketIoPacketLost(`it cannot be read (${messageOf(error)})`))
      return
    }
    const { uid, attachmentId, position, n } = header
    const own = uid === this.#options.uid
    if (own && position === undefined) return
    const read = attachmentId !== undefined && attachmentId !== null && !own
    this.#push({
      uid,
      message: read ? undefined : (header as unknown as Message),
      attachmentId: read ? String(attachmentId) : undefined,
      position,
      n
    })
  }

  /** Resolves when all that has come so far is delivered. */
  drained(): Promise<void> {
    return new Promise((resolve) => this.#push(resolve))
  }

  /** From now on what comes has to wait: something may be missing before it. */
  hold(): void {
    this.#held = true
  }

  /** Delivers what was read instead of heard. Its notification may still come, and is passed over. */
  replay(received: Received): void {
    this.#replayedTo = received.position!
    this.#deliver(received)
  }

  /** Goes on, after a replay. */
  release(): void {
    this.#held = false
    if (!this.#working) this.#work()
  }

  close(): void {
    this.#closed = true
    for (const item of this.#queue) if (typeof item === 'function') item()
    this.#queue = []
  }

  #push(item: Received | (() => void)): void {
    if (this.#closed) {
      if (typeof item === 'function') item()
      return
    }
    const mustWait = this.#working || this.#held || this.#queue.length > 0
    if (!mustWait && (typeof item === 'function' || item.message !== undefined)) this.#take(item)
    else {
      this.#queue.push(item)
      if (!this.#working && !this.#held) this.#work()
    }
  }

  async #work(): Promise<void> {
    this.#working = true
    while (this.#queue.length > 0 && !this.#held && !this.#closed) {
      const wanted = this.#queue
        .flatMap((item) => (typeof item === 'function' || item.message ? [] : item.attachmentId!))
        .slice(0, MAX_ROWS)
      let found = new Map<string, Message>()
      let reason = 'is not there'
      if (wanted.length > 0) {
        try {
          found = await this.#options.read(wanted)
        } catch (error) {
          if (!(error instanceof errors.NotAccepted)) {
            await sleep(RETRY_INTERVAL)
            continue
          }
          reason = `cannot be read: ${messageOf(error)}`
        }
      }
      const known = new Set(wanted)
      while (this.#queue.length > 0 && !this.#held && !this.#closed) {
        const item = this.#queue[0]!
        if (typeof item !== 'function' && item.message === undefined) {
          // It came while the others were read.
          if (!known.has(item.attachmentId!)) break
          item.message = found.get(item.attachmentId!)
          if (item.message === undefined) {
            const row = `the row ${item.attachmentId} of the node ${item.uid} ${reason}`
            this.#options.onError(new errors.SocketIoPacketLost(row))
          }
        }
        this.#queue.shift()
        this.#take(item)
      }
    }
    this.#working = false
  }

  #take(item: Received | (() => void)): void {
    if (typeof item === 'function') item()
    else if (item.position === undefined || item.position > this.#replayedTo) this.#deliver(item)
  }

  #deliver(received: Received): void {
    const { message } = received
    try {
      // The published emitter 0.1.1 does not name the namespace.
      if (message !== undefined) message.nsp ??= this.#options.nsp
      this.#options.deliver(received)
    } catch (error) {
      this.#options.onError(error as Error)
    }
  }
}

/**
 * Any role of the database may notify the channel, and a position that is none would spoil that of all who come after.
 * @throws TypeError for what no node has sent
 */
function readHeader(value: unknown): Header {
  if (typeof value !== 'object' || value === null) throw new TypeError('it is no JSON object')
  const { uid, position, n } = value as Record<string, unknown>
  if (typeof uid !== 'string') throw new TypeError('it names no node')
  for (const number of [position, n]) {
    if (number === undefined) continue
    if (!Number.isSafeInteger(number) || (number as number) < 0) throw new TypeError('it has no number')
  }
  return value as Header
}
