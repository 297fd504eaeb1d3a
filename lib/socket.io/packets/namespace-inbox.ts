import { setTimeout as sleep } from 'node:timers/promises'
import { asError, errors, isPermanent, messageOf, sqlstateOf } from '../../errors.js'
import { isCount, isObject } from '../../json-value.js'
import type { Message } from './packet.js'

/** How long to wait before a failed read of rows is repeated, in milliseconds. */
const RETRY_INTERVAL = 100

/** For how long failed reads are repeated before the packets are given up, in milliseconds. */
const READ_TIMEOUT = 20_000

/** The class of SQLSTATEs that concern the table, not one of its rows. */
const ABOUT_THE_TABLE = /^42/

/** The maximum number of rows that are read at once. Each may be large. */
const MAX_ROWS = 100

/** A received packet. */
export interface Received {
  /** Undefined until the row has been read. */
  message: Message | undefined
  uid: string
  /** The id of the row that holds the message. */
  attachmentId?: string | undefined
  /** The position of a kept packet. */
  position?: number | undefined
  /** The packet's number at its sender. */
  n?: number | undefined
}

/** A packet whose row has not been read. */
interface Unread extends Received {
  attachmentId: string
  /** When to stop trying to read its row; undefined while no read has failed. */
  deadline?: number
}

/** A notification: a message or the id of the row that holds it, and the packet's position and number. */
interface Header extends Message {
  attachmentId?: unknown
  position?: number
  n?: number
}

export interface InboxOptions {
  nsp: string
  /** This node. Its own packets are not delivered; only their positions matter. */
  uid: string
  deliver: (received: Received) => void
  /**
   * Reads rows. Answers an error for a row that holds no message. Rejects with NotAccepted if the database refuses the
   * statement.
   */
  read: (ids: readonly string[]) => Promise<Map<string, Message | Error>>
  onError: (error: Error) => void
}

/**
 * Delivers a namespace's messages in the order of their notifications, although some must first be read from a table.
 * After the listener was disconnected, delivers the replay of the missed packets before anything newer.
 */
export class NamespaceInbox {
  readonly #options: InboxOptions
  #queue: (Received | (() => void))[] = []
  #working = false
  #held = false
  #closed = false
  /** Packets up to this position were replayed. Their notifications may still arrive, and are ignored. */
  #replayedTo = 0
  /** How many rows are read at once. It is 1 after an error, because one of several rows may have caused it. */
  #batchSize = MAX_ROWS

  readonly #ownStart: string

  constructor(options: InboxOptions) {
    this.#options = options
    this.#ownStart = JSON.stringify({ uid: options.uid }).slice(0, -1)
  }

  /** Takes a notification on the namespace's channel. */
  receive(payload: string): void {
    // A node receives its own packets, too. They need not be parsed, except kept ones, which begin with their position.
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

  /** Resolves when everything that has arrived so far has been delivered. */
  drained(): Promise<void> {
    return new Promise((resolve) => this.#push(resolve))
  }

  /** Makes all packets wait, because packets before them may be missing. */
  hold(): void {
    this.#held = true
  }

  /** Delivers a missed packet. Its notification may still arrive, and is ignored. */
  replay(received: Received): void {
    this.#replayedTo = received.position!
    this.#deliver(received)
  }

  /** Delivers what waits, after a replay. */
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
      const unread = this.#queue.filter(isUnread).slice(0, this.#batchSize)
      if (unread.length > 0) await this.#read(unread)
      while (this.#queue.length > 0 && !this.#held && !this.#closed) {
        const item = this.#queue[0]!
        // Its row has not been read: it arrived during the read, or the read failed.
        if (isUnread(item)) break
        this.#queue.shift()
        this.#take(item)
      }
    }
    this.#working = false
  }

  /** Reads rows. On failure, waits for a moment, and gives up those that cannot be read. */
  async #read(unread: readonly Unread[]): Promise<void> {
    try {
      const found = await this.#options.read(unread.map(({ attachmentId }) => attachmentId))
      for (const item of unread) {
        const message = found.get(item.attachmentId) ?? new Error('the row does not exist')
        if (message instanceof Error) this.#lose([item], message)
        else item.message = message
      }
      this.#batchSize = Math.min(this.#batchSize * 2, MAX_ROWS)
    } catch (error) {
      if (isPermanent(error)) {
        // One of several rows may have caused the error.
        if (unread.length === 1 || ABOUT_THE_TABLE.test(sqlstateOf(error))) this.#lose(unread, error)
        else this.#batchSize = 1
        return
      }
      const now = performance.now()
      for (const item of this.#queue) if (isUnread(item)) item.deadline ??= now + READ_TIMEOUT
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
      // The packet stays in the queue, because its position has to be counted.
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

/** The largest id of a row: the maximum of PostgreSQL's bigint. */
const MAX_ID = 2n ** 63n - 1n

/**
 * Checks a notification, because any role of the database may notify the channel, and an invalid position would corrupt
 * the offsets of all later packets.
 * @throws TypeError for a notification that no node sends
 */
function readHeader(value: unknown): Header {
  const { uid, position, n, attachmentId } = isObject(value) ? value : {}
  if (typeof uid !== 'string') throw new TypeError('it does not name a node')
  for (const number of [position, n]) {
    if (number !== undefined && !isCount(number)) throw new TypeError('its number or position is invalid')
  }
  // An invalid id would make the statement fail for the rows that are read together with it.
  if (attachmentId !== undefined && attachmentId !== null) {
    const id = String(attachmentId)
    if (!/^\d{1,19}$/.test(id) || BigInt(id) > MAX_ID) throw new TypeError('the id of its row is invalid')
  }
  // An invalid `type` or `data` is ignored or reported when the packet is delivered.
  return value as Header
}
