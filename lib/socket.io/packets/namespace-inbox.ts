import { setTimeout as sleep } from 'node:timers/promises'
import { asError, errors, isPermanent, messageOf, sqlstateOf } from '../../errors.js'
import { isCount } from '../../json-value.js'
import type { Message } from './packet.js'

/** How long to wait before rows are asked for again that could not be read, in milliseconds. */
const RETRY_INTERVAL = 100

/** For how long they are asked for, where the database does not answer, in milliseconds. */
const PATIENCE = 20_000

/** The class of SQLSTATEs that tell of the table, not of one of its rows. */
const ABOUT_THE_TABLE = /^42/

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

/** What waits for its row. */
interface Unread extends Received {
  attachmentId: string
  /** Until when it is asked for, once that has failed. */
  deadline?: number
}

/** A notification: a message, or the row that holds it, and what stands beside it. */
interface Header extends Message {
  attachmentId?: unknown
  position?: number
  n?: number
}

export interface InboxOptions {
  nsp: string
  /** Packets of our own are not read; their positions count. */
  uid: string
  deliver: (received: Received) => void
  /**
   * Reads rows, many at once; one that holds no message is answered with what is wrong with it. Rejects with
   * NotAccepted where the database will never give them.
   */
  read: (ids: readonly string[]) => Promise<Map<string, Message | Error>>
  onError: (error: Error) => void
}

/**
 * A namespace's messages in the order of their notifications, although some must first be read from a table; and, after
 * the listener was away, the replay of what it missed before anything newer.
 */
export class NamespaceInbox {
  readonly #options: InboxOptions
  #queue: (Received | (() => void))[] = []
  #working = false
  #held = false
  #closed = false
  /** Up to here packets were replayed; their notifications may still come. */
  #replayedTo = 0
  /** How many rows are read at once: one, where one of several was at fault. */
  #most = MAX_ROWS

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
      this.#options.onError(new errors.SocketIoPacketLost(`it could not be read (${messageOf(error)})`))
      return
    }
    const { uid, attachmentId, position, n } = header
    const own = uid === this.#options.uid
    if (own && position === undefined) return
    const read = attachmentId !== undefined && attachmentId !== null && !own
    this.#push({
      uid,
      message: read ? undefined : header,
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

  /** Never rejects. */
  async #work(): Promise<void> {
    this.#working = true
    while (this.#queue.length > 0 && !this.#held && !this.#closed) {
      const unread = this.#queue.filter(isUnread).slice(0, this.#most)
      if (unread.length > 0) await this.#read(unread)
      while (this.#queue.length > 0 && !this.#held && !this.#closed) {
        const item = this.#queue[0]!
        // Its row was not read yet, or it came while others were.
        if (isUnread(item)) break
        this.#queue.shift()
        this.#take(item)
      }
    }
    this.#working = false
  }

  /** Reads rows, or waits a little; gives up those that cannot be read. */
  async #read(unread: readonly Unread[]): Promise<void> {
    try {
      const found = await this.#options.read(unread.map(({ attachmentId }) => attachmentId))
      for (const item of unread) {
        const message = found.get(item.attachmentId) ?? new Error('its row is missing')
        if (message instanceof Error) this.#lose([item], message)
        else item.message = message
      }
      this.#most = Math.min(this.#most * 2, MAX_ROWS)
    } catch (error) {
      if (isPermanent(error)) {
        // One of several may be at fault.
        if (unread.length === 1 || ABOUT_THE_TABLE.test(sqlstateOf(error))) this.#lose(unread, error)
        else this.#most = 1
        return
      }
      const now = performance.now()
      for (const item of this.#queue) if (isUnread(item)) item.deadline ??= now + PATIENCE
      this.#lose(
        unread.filter(({ deadline }) => deadline! <= now),
        error
      )
      await sleep(RETRY_INTERVAL)
    }
  }

  #lose(unread: readonly Received[], reason: unknown): void {
    for (const item of unread) {
      const row = `the row ${item.attachmentId} of the node ${item.uid} cannot be read: ${messageOf(reason)}`
      // Its position counts all the same.
      item.attachmentId = undefined
      this.#options.onError(new errors.SocketIoPacketLost(row))
    }
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
      this.#options.onError(asError(error))
    }
  }
}

function isUnread(item: Received | (() => void)): item is Unread {
  return typeof item !== 'function' && item.message === undefined && item.attachmentId !== undefined
}

/** The largest id of a row: PostgreSQL's bigint. */
const MAX_ID = 2n ** 63n - 1n

/**
 * Any role of the database may notify the channel, and a position that is none would spoil that of all who come after.
 * @throws TypeError for what no node has sent
 */
function readHeader(value: unknown): Header {
  if (typeof value !== 'object' || value === null) throw new TypeError('it is no JSON object')
  const { uid, position, n, attachmentId } = value as Record<string, unknown>
  if (typeof uid !== 'string') throw new TypeError('it names no node')
  for (const number of [position, n]) {
    if (number !== undefined && !isCount(number)) throw new TypeError('it has no number')
  }
  // An id that is none would fail those that are read with it.
  if (attachmentId !== undefined && attachmentId !== null) {
    const id = String(attachmentId)
    if (!/^\d{1,19}$/.test(id) || BigInt(id) > MAX_ID) throw new TypeError('it refers to no row')
  }
  return value as Header
}
