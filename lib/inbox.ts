import { setTimeout as sleep } from 'node:timers/promises'
import { type Message, type Received, type Reference, readNotification } from './message.js'

/** How long to wait before the database is asked again for what a reference stands for, in milliseconds. */
const RETRY_INTERVAL = 100

export interface InboxOptions {
  /** The channel of notifications that name none. */
  listenChannel: string
  /** Returns to how many clients. */
  deliver: (message: Message) => number
  /** Whether anybody on this server would get a message of the channel. */
  wanted: (channel: string) => boolean
  /** Reads what references stand for, all of them in one go. Rejects where the database is away. */
  resolve: (references: readonly Reference[]) => Promise<Map<Reference, Message>>
  /** Told of each message that came, with its age in seconds where that is known. */
  onMessage: (age: number | undefined) => void
}

/** Counts what is delivered of one publication. */
interface Tally {
  id: string
  delivered: number
}

/** What has to wait for its turn: a notification, or who wants to know the count when all before was delivered. */
type Waiting = { tally: Tally | undefined } & (
  | { received: Received; counted?: undefined }
  | { counted: (delivered: number) => void; received?: undefined }
)

/**
 * Notifications in the order in which they came, although some must first be read from a table; and, after the
 * listener was away, the replay of what it missed before anything newer.
 */
export class Inbox {
  readonly #options: InboxOptions
  #queue: Waiting[] = []
  /** Something must come first: a reference's row, or the replay. */
  #waiting = false
  #held = false
  #closed = false
  /** Durable messages up to here were replayed; their notifications may still come. */
  #replayedTo = 0
  /** The last durable message's position. */
  #seen: number | undefined
  /** Of the publication that is coming in, where its publisher wants to know. */
  #tally: Tally | undefined

  constructor(options: InboxOptions) {
    this.#options = options
  }

  /** The position of the last durable message that was delivered, or that was there before us. */
  get seen(): number | undefined {
    return this.#seen
  }

  set seen(position: number | undefined) {
    this.#seen = position
  }

  receive(payload: string): void {
    const received = readNotification(payload, this.#options.listenChannel)
    const sentAt = received?.reference === undefined ? received?.sentAt : undefined
    this.#options.onMessage(sentAt || undefined)
    if (received === undefined) return
    const { reference } = received
    // Nobody here would get it, so it need not be read.
    if (reference?.channel !== undefined && !this.#options.wanted(reference.channel)) return
    if (reference === undefined && !this.#waiting && !this.#held) {
      this.#deliver(received.message, this.#tally)
    } else {
      this.#queue.push({ received, tally: this.#tally })
      if (!this.#waiting && !this.#held) this.#work()
    }
  }

  /** A publication begins whose publisher wants to know how many clients got it. */
  begin(id: string): void {
    this.#tally = { id, delivered: 0 }
  }

  /** Counts what was delivered past the inbox. */
  count(delivered: number): void {
    if (this.#tally !== undefined) this.#tally.delivered += delivered
  }

  /** The publication has ended: calls back when all of it was delivered. Nothing for one whose begin was missed. */
  end(id: string, counted: (delivered: number) => void): void {
    const tally = this.#tally
    if (tally?.id !== id) return
    this.#tally = undefined
    if (this.#waiting || this.#held) this.#queue.push({ counted, tally })
    else counted(tally.delivered)
  }

  /** From now on what comes has to wait: the listener was lost, and something may be missing before it. */
  hold(): void {
    this.#held = true
    // The end of a publication may be among what was lost.
    this.#tally = undefined
  }

  /** Delivers a message that was read instead of heard. Its notification may still come, and is passed over. */
  replay(message: Message): void {
    this.#replayedTo = message.position!
    this.#seen = message.position!
    this.#options.deliver(message)
  }

  /** The database is another one: positions begin anew. */
  restart(position: number): void {
    this.#replayedTo = position
    this.#seen = position
  }

  /** Goes on, after a replay. */
  release(): void {
    this.#held = false
    if (!this.#waiting) this.#work()
  }

  close(): void {
    this.#closed = true
    this.#queue = []
  }

  async #work(): Promise<void> {
    this.#waiting = true
    while (this.#queue.length > 0 && !this.#held && !this.#closed) {
      const references = this.#queue.flatMap(({ received }) => received?.reference ?? [])
      let found = new Map<Reference, Message>()
      if (references.length > 0) {
        try {
          found = await this.#options.resolve(references)
        } catch {
          await sleep(RETRY_INTERVAL)
          continue
        }
      }
      if (this.#held) break
      const known = new Set(references)
      while (this.#queue.length > 0) {
        const { received, counted, tally } = this.#queue[0]!
        // It came while the others were read.
        if (received?.reference !== undefined && !known.has(received.reference)) break
        this.#queue.shift()
        if (received === undefined) {
          counted(tally!.delivered)
          continue
        }
        const message = received.reference === undefined ? received.message : found.get(received.reference)
        if (message !== undefined) this.#deliver(message, tally)
      }
    }
    this.#waiting = false
  }

  #deliver(message: Message, tally: Tally | undefined): void {
    const { position } = message
    if (position !== undefined) {
      if (position <= this.#replayedTo) return
      this.#seen = position
    }
    const delivered = this.#options.deliver(message)
    if (tally !== undefined) tally.delivered += delivered
  }
}
