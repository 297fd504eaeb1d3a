import { setTimeout as sleep } from 'node:timers/promises'
import { errors, isPermanent, sqlstateOf } from '../errors.js'
import { type Message, type Reference, readNotification } from '../messages/index.js'
import { Delivered } from './delivered.js'
import type { LossReason } from './losses.js'

/** How long to wait before the database is asked again for what a reference stands for, in milliseconds. */
const RETRY_INTERVAL = 100

/** For how long it is asked, where it does not answer, in milliseconds. */
const PATIENCE = 10_000

/** The class of SQLSTATEs that tell of the table, not of one of its rows: it is missing, or may not be read. */
const ABOUT_THE_TABLE = /^42/

/** At most so many references are read at once. */
const MAX_READ = 100

export interface IncomingQueueOptions {
  /** The channel of notifications that name none. */
  listenChannel: string
  /** Returns to how many clients. */
  deliver: (message: Message) => number
  /** Whether anybody on this server would get a message of the channel. */
  wanted: (channel: string) => boolean
  /**
   * Reads what references to one table stand for, at least the first of them. What is not there, or holds no message, is
   * answered with why. Rejects where the database is away, or refuses.
   */
  resolve: (references: readonly Reference[]) => Promise<Map<Reference, Message | LossReason>>
  /** Told of each message that came, with its age in seconds where that is known. */
  onMessage: (age: number | undefined) => void
  /**
   * Told of each that is given up, in its turn.
   * @param reference what it was; undefined: nothing that anybody could have got
   */
  onLost: (reason: LossReason, reference?: Reference, error?: unknown) => void
  /** Whether what is missed will be replayed: only then is it kept what was delivered. */
  replays: boolean
}

/** Counts what is delivered of one publication. */
interface Tally {
  id: string
  delivered: number
}

/** A message that waits for its turn, or for its row. */
interface Arrival {
  tally: Tally | undefined
  reference?: Reference
  /** Undefined until the row was read; or why there is none. */
  outcome: Message | LossReason | undefined
  error?: unknown
  /** Until when its row is asked for, once that has failed. */
  deadline?: number
}

/** Who wants to know the count when all before was delivered. */
interface Count {
  tally: Tally
  counted: (delivered: number) => void
}

/**
 * Notifications in the order in which they came, although some must first be read from a table; and, after the
 * listener was away, the replay of what it missed before anything newer. None waits for longer than the tries to read
 * those before it take.
 */
export class IncomingQueue {
  readonly #options: IncomingQueueOptions
  #queue: (Arrival | Count)[] = []
  /** Something must come first: a reference's row, or the replay. */
  #waiting = false
  #held = false
  #closed = false
  /** Durable messages up to here were replayed; their notifications may still come. */
  #replayedTo = 0
  readonly #delivered = new Delivered()
  /** Of the publication that is coming in, where its publisher wants to know. */
  #tally: Tally | undefined
  /** How many references are read at once: one, where one of several was at fault. */
  #most = MAX_READ

  constructor(options: IncomingQueueOptions) {
    this.#options = options
  }

  /** Where a replay begins: durable messages up to this position have arrived, or were there before us. */
  get floor(): number | undefined {
    return this.#delivered.floor
  }

  /** The database has said what was there before us. */
  startAt(position: number): void {
    this.#delivered.raise(position)
  }

  /** The positions of durable messages that were delivered beyond the floor. */
  get delivered(): Set<number> {
    return this.#delivered.positions()
  }

  /** The positions of some of the last messages that were delivered up to the floor. */
  get sample(): number[] {
    return this.#delivered.sample
  }

  /** Whether one of the sample was delivered with the text of a message. */
  isSample({ position, text }: Message): boolean {
    return this.#delivered.isSample(position!, text)
  }

  /** The database is about to be asked for its last position. */
  mark(): void {
    this.#delivered.mark()
  }

  /**
   * All notifications up to the position that the database answered after the mark have come.
   * @returns false where one of them still waits: then it is too early
   */
  prove(latest: number): boolean {
    if (this.#held) return false
    for (const item of this.#queue) {
      if (!('counted' in item) && positionOf(item) <= latest) return false
    }
    this.#delivered.prove(latest)
    return true
  }

  receive(payload: string): void {
    const { listenChannel, wanted, onMessage, onLost } = this.#options
    const received = readNotification(payload, listenChannel)
    onMessage('sentAt' in received && received.sentAt ? received.sentAt : undefined)
    if ('refused' in received) {
      onLost(received.refused)
      return
    }
    const tally = this.#tally
    if ('message' in received) {
      if (!this.#waiting && !this.#held) this.#deliver(received.message, tally)
      else this.#push({ outcome: received.message, tally })
      return
    }
    const { reference } = received
    // Nobody here would get it, so it need not be read.
    if (reference.channel !== undefined && !wanted(reference.channel)) return
    this.#push({ reference, outcome: undefined, tally })
  }

  /** A publication begins whose publisher wants to know how many clients got it. */
  begin(id: string): void {
    this.#tally = { id, delivered: 0 }
  }

  /** Counts what was delivered past the incoming. */
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
    // What comes on another connection proves nothing for this one.
    this.#delivered.unmark()
    // The end of a publication may be among what was lost.
    this.#tally = undefined
  }

  /**
   * Delivers a message that was read instead of heard, unless it was heard before. Its notification may still come, and
   * is passed over.
   */
  replay(message: Message): void {
    const position = message.position!
    const known = this.#delivered.has(position, message.text)
    this.#replayedTo = position
    this.#delivered.raise(position)
    if (!known) this.#options.deliver(message)
  }

  /** The database is another one: positions begin anew. */
  restart(position: number): void {
    this.#replayedTo = position
    this.#delivered.restart(position)
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

  #push(arrival: Arrival): void {
    this.#queue.push(arrival)
    if (!this.#waiting && !this.#held) this.#work()
  }

  /** Never rejects. */
  async #work(): Promise<void> {
    this.#waiting = true
    while (this.#queue.length > 0 && !this.#held && !this.#closed) {
      const unread = this.#nextUnread()
      if (unread.length > 0) await this.#read(unread)
      while (this.#queue.length > 0 && !this.#held) {
        const next = this.#queue[0]!
        // Its row was not read yet, or it came while others were.
        if (isUnread(next)) break
        this.#queue.shift()
        if ('counted' in next) next.counted(next.tally.delivered)
        else this.#settle(next)
      }
    }
    this.#waiting = false
  }

  /** The first references that have to be read, of one table: what fails for one table is no affair of the other. */
  #nextUnread(): Arrival[] {
    const unread: Arrival[] = []
    for (const item of this.#queue) {
      if (!isUnread(item)) continue
      if (unread.length > 0 && item.reference!.table !== unread[0]!.reference!.table) continue
      unread.push(item)
      if (unread.length === this.#most) break
    }
    return unread
  }

  /** Reads references, or waits a little; gives up those that cannot be read. */
  async #read(arrivals: readonly Arrival[]): Promise<void> {
    try {
      const found = await this.#options.resolve(arrivals.map(({ reference }) => reference!))
      for (const arrival of arrivals) arrival.outcome = found.get(arrival.reference!)
      this.#most = Math.min(this.#most * 2, MAX_READ)
    } catch (error) {
      const away = error instanceof errors.DatabaseUnavailable
      // One of several may be at fault.
      if (!away) this.#most = 1
      if (isPermanent(error)) {
        if (arrivals.length === 1 || ABOUT_THE_TABLE.test(sqlstateOf(error))) giveUp(arrivals, error)
        return
      }
      const unread = this.#queue.filter((item) => isUnread(item))
      const now = performance.now()
      for (const arrival of unread) arrival.deadline ??= now + PATIENCE
      const failed = away ? unread : arrivals.length === 1 ? arrivals : []
      giveUp(
        failed.filter(({ deadline }) => deadline! <= now),
        error
      )
      await sleep(RETRY_INTERVAL)
    }
  }

  #settle({ outcome, reference, error, tally }: Arrival): void {
    if (typeof outcome === 'object') this.#deliver(outcome, tally)
    // What a replay has delivered is not lost.
    else if (reference?.table !== 'message' || reference.position > this.#replayedTo) {
      this.#options.onLost(outcome!, reference, error)
    }
  }

  #deliver(message: Message, tally: Tally | undefined): void {
    const { position } = message
    if (position !== undefined) {
      if (position <= this.#replayedTo) return
      if (this.#options.replays) this.#delivered.add(position, message.text)
    }
    const delivered = this.#options.deliver(message)
    if (tally !== undefined) tally.delivered += delivered
  }
}

function isUnread(item: Arrival | Count): item is Arrival {
  return !('counted' in item) && item.outcome === undefined
}

/** Of a durable message; others have none that counts. */
function positionOf({ reference, outcome }: Arrival): number {
  if (reference?.table === 'message') return reference.position
  return (typeof outcome === 'object' ? outcome.position : undefined) ?? Number.POSITIVE_INFINITY
}

function giveUp(arrivals: readonly Arrival[], error: unknown): void {
  for (const arrival of arrivals) Object.assign(arrival, { outcome: 'unreadable', error })
}
