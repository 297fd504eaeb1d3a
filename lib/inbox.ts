import { setTimeout as sleep } from 'node:timers/promises'
import { type Message, type Received, type Reference, readNotification } from './message.js'

/** How long to wait before the database is asked again for what a reference stands for, in milliseconds. */
const RETRY_INTERVAL = 100

export interface InboxOptions {
  /** The channel of notifications that name none. */
  listenChannel: string
  deliver: (message: Message) => void
  /** Whether anybody on this server would get a message of the channel. */
  wanted: (channel: string) => boolean
  /** Reads what references stand for, all of them in one go. Rejects where the database is away. */
  resolve: (references: readonly Reference[]) => Promise<Map<Reference, Message>>
  /** Told of each message that came, with its age in seconds where that is known. */
  onMessage: (age: number | undefined) => void
}

/**
 * Notifications in the order in which they came, although some must first be read from a table; and, after the
 * listener was away, the replay of what it missed before anything newer.
 */
export class Inbox {
  readonly #options: InboxOptions
  #queue: Received[] = []
  /** Something must come first: a reference's row, or the replay. */
  #waiting = false
  #held = false
  #closed = false
  /** Durable messages up to here were replayed; their notifications may still come. */
  #replayedTo = 0
  /** The last durable message's position. */
  #seen: number | undefined

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
    const { reference } = received
    this.#options.onMessage(reference === undefined && received.sentAt ? received.sentAt : undefined)
    // Nobody here would get it, so it need not be read.
    if (reference?.channel !== undefined && !this.#options.wanted(reference.channel)) return
    if (reference === undefined && !this.#waiting && !this.#held) this.#deliver(received.message)
    else {
      this.#queue.push(received)
      if (!this.#waiting && !this.#held) this.#work()
    }
  }

  /** From now on what comes has to wait: the listener was lost, and something may be missing before it. */
  hold(): void {
    this.#held = true
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
      const references = this.#queue.flatMap(({ reference }) => reference ?? [])
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
        const { reference, ...received } = this.#queue[0]!
        // It came while the others were read.
        if (reference !== undefined && !known.has(reference)) break
        this.#queue.shift()
        const message =
          reference === undefined ? (received as { message: Message }).message : found.get(reference)
        if (message !== undefined) this.#deliver(message)
      }
    }
    this.#waiting = false
  }

  #deliver(message: Message): void {
    const { position } = message
    if (position !== undefined) {
      if (position <= this.#replayedTo) return
      this.#seen = position
    }
    this.#options.deliver(message)
  }
}
