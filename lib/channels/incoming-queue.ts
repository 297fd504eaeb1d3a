import { setTimeout as sleep } from 'node:timers/promises'
import { errors, isPermanent, sqlstateOf } from '../errors.js'
import { type Announcement, type Message, type Reference, readNotification } from '../messages/index.js'
import { Delivered } from './delivered.js'
import { GapDetector } from './gap-detector.js'
import type { LossReason } from './losses.js'
import {
  type Arrival,
  durablePositionOf,
  giveUp,
  type Item,
  isUnread,
  positionOf,
  type Tally
} from './queue-item.js'

/** How long to wait before a failed read of referenced messages is repeated, in milliseconds. */
const RETRY_INTERVAL = 100

/** For how long failed reads are repeated before the messages are given up, in milliseconds. */
const PATIENCE = 10_000

/** The class of SQLSTATEs that concern the table, not one of its rows: it does not exist, or it may not be read. */
const ABOUT_THE_TABLE = /^42/

/** The maximum number of references that are read at once. */
const MAX_READ = 100

export interface IncomingQueueOptions {
  /** The channel of notifications that do not name one. */
  listenChannel: string
  /** Returns the number of clients that the message was delivered to. */
  deliver: (message: Message) => number
  /** Whether the channel has readers on this server. */
  wanted: (channel: string) => boolean
  /**
   * Reads the messages of references to one table, at least the first of them. Answers the reason for a row that does not
   * exist or holds no message. Rejects when the database is unavailable or answers with an error.
   */
  resolve: (references: readonly Reference[]) => Promise<Map<Reference, Message | LossReason>>
  /** Called for each notification, with the time at which it was sent if that is known, in Unix seconds. */
  onMessage: (sentAt: number | undefined) => void
  /**
   * Called for each message that is given up, when its turn has come.
   * @param reference the row that was not read; undefined for a notification that is not a message
   */
  onLost: (reason: LossReason, reference?: Reference, error?: unknown) => void
  /** Called when notifications are missing. Nothing more is delivered until `release` is called. */
  onGap: () => void
  /** Whether missed messages are replayed. Only then does the queue remember what was delivered. */
  replays: boolean
}

/**
 * Delivers notifications in the order in which they arrive, although the messages of some must first be read from a table.
 * After the listener was disconnected, or if notifications are missing, delivers the replay of the missed messages before
 * anything newer. No message waits longer than it takes to read those before it, or to give them up.
 */
export class IncomingQueue {
  readonly #options: IncomingQueueOptions
  #queue: Item[] = []
  /** How many of the queue came before the database was last asked what is missing. */
  #covered = 0
  /** Whether the queue is being worked through: a newer message must not overtake it. */
  #waiting = false
  #held = false
  #closed = false
  /** Durable messages up to this position were replayed. Their notifications may still arrive, and are ignored. */
  #replayedTo = 0
  readonly #delivered = new Delivered()
  readonly #detector = new GapDetector()
  /** The tally of the publication that is arriving, if its publisher asked for one. */
  #tally: Tally | undefined
  /** How many references are read at once. It is 1 after an error, because one of several rows may have caused it. */
  #most = MAX_READ

  constructor(options: IncomingQueueOptions) {
    this.#options = options
  }

  /** Where a replay begins. Durable messages up to this position have arrived, or are older than this server. */
  get floor(): number | undefined {
    return this.#delivered.floor
  }

  /** To be called with the database's last position when the server starts. */
  startAt(position: number): void {
    this.#delivered.raise(position)
  }

  /** The positions of the durable messages that were delivered beyond the floor. */
  get delivered(): Set<number> {
    return this.#delivered.positions()
  }

  /** The positions of some of the last messages at or below the floor. */
  get sample(): number[] {
    return this.#delivered.sample
  }

  /** Whether the sample has a message with this position and text. */
  isSample({ position, text }: Message): boolean {
    return this.#delivered.isSample(position!, text)
  }

  /** To be called before the database is asked for its last position. */
  mark(): void {
    this.#delivered.mark()
  }

  /**
   * To be called when all notifications up to the position that the database answered after the mark have arrived.
   * @returns false if one of them still waits in the queue, or is missing, and the call has to be repeated later
   */
  prove(latest: number): boolean {
    if (this.#held) return false
    if (this.#queue.some((item) => positionOf(item) <= latest)) return false
    if (this.#detector.heard !== undefined && this.#detector.heard < latest) {
      this.#gap()
      return false
    }
    this.#delivered.prove(latest)
    return true
  }

  /** The position up to which everything that was announced has arrived; undefined if gaps cannot be noticed. */
  get heard(): number | undefined {
    return this.#detector.heard
  }

  /**
   * Notices from now on what is missing.
   * @param position the position up to which the database has said that there is nothing else; undefined: not known
   */
  follow(position: number | undefined): void {
    if (this.#options.replays) this.#detector.follow(position)
  }

  /** To be called before the database is asked for what is missing: nothing is missing before what has come until now. */
  cover(): void {
    this.#covered = this.#queue.length
  }

  /** Takes an announcement of the messages that come next. */
  announce(announcement: Announcement): void {
    if (!this.#options.replays) return
    const alone = !this.#waiting && !this.#held
    if (!alone || !this.#detector.announced(announcement)) this.#push({ announcement })
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
      const { position } = received.message
      const alone = !this.#waiting && !this.#held
      if (alone && (position === undefined || this.#detector.arrived(position))) {
        this.#deliver(received.message, tally)
      } else this.#push({ outcome: received.message, tally })
      return
    }
    const { reference } = received
    // Without readers here, it need not be read.
    const unwanted = reference.channel !== undefined && !wanted(reference.channel)
    this.#push({ reference, outcome: unwanted ? null : undefined, tally })
  }

  /** Begins to count the deliveries of a publication, because its publisher asked for the number of clients that got it. */
  begin(id: string): void {
    this.#tally = { id, delivered: 0 }
  }

  /** Adds deliveries that did not pass through this queue. */
  count(delivered: number): void {
    if (this.#tally !== undefined) this.#tally.delivered += delivered
  }

  /** Ends a publication. Calls back when all of it has been delivered, or never if its beginning was missed. */
  end(id: string, counted: (delivered: number) => void): void {
    const tally = this.#tally
    if (tally?.id !== id) return
    this.#tally = undefined
    if (this.#waiting || this.#held) this.#queue.push({ counted, tally })
    else counted(tally.delivered)
  }

  /** Makes all messages wait, because the listener was disconnected and messages before them may be missing. */
  hold(): void {
    this.#held = true
    // The notifications of the next connection prove nothing about those of this one.
    this.#delivered.unmark()
    // The end of the publication may be missing.
    this.#tally = undefined
  }

  /**
   * Delivers a missed message, unless it has been delivered already. Its notification may still arrive, and is ignored.
   */
  replay(message: Message): void {
    const position = message.position!
    const known = this.#delivered.has(position, message.text)
    this.#replayedTo = position
    this.#delivered.raise(position)
    if (!known) this.#options.deliver(message)
  }

  /** Starts again from a position, because the database was restored or replaced. */
  restart(position: number): void {
    this.#replayedTo = position
    this.#delivered.restart(position)
  }

  /** Delivers what waits, after a replay. */
  release(): void {
    this.#held = false
    if (!this.#waiting) this.#work()
  }

  close(): void {
    this.#closed = true
    this.#queue = []
  }

  #push(item: Item): void {
    this.#queue.push(item)
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
        // Its row has not been read: it arrived during the read, or the read failed.
        if (isUnread(next)) break
        if (!this.#isNext(next)) {
          this.#gap()
          break
        }
        this.#queue.shift()
        if (this.#covered > 0) this.#covered--
        if ('counted' in next) next.counted(next.tally.delivered)
        else if (!('announcement' in next)) this.#settle(next)
      }
    }
    this.#waiting = false
  }

  /** The first references that have to be read. They are of one table, because an error may concern one table alone. */
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

  /** Reads references. On failure, waits for a moment, and gives up those that cannot be read. */
  async #read(arrivals: readonly Arrival[]): Promise<void> {
    try {
      const found = await this.#options.resolve(arrivals.map(({ reference }) => reference!))
      for (const arrival of arrivals) arrival.outcome = found.get(arrival.reference!)
      this.#most = Math.min(this.#most * 2, MAX_READ)
    } catch (error) {
      const away = error instanceof errors.DatabaseUnavailable
      // One of several rows may have caused the error.
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

  /** Whether nothing is missing before the first of the queue, as far as is known. */
  #isNext(item: Item): boolean {
    if ('counted' in item) return true
    if ('announcement' in item) return this.#detector.announced(item.announcement) || this.#covered > 0
    const position = durablePositionOf(item)
    return position === undefined || this.#detector.arrived(position) || this.#covered > 0
  }

  #gap(): void {
    this.#held = true
    this.#options.onGap()
  }

  #settle({ outcome, reference, error, tally }: Arrival): void {
    if (outcome === null) {
      if (reference?.table === 'message') this.#pass(reference.position)
      return
    }
    if (typeof outcome === 'object') this.#deliver(outcome, tally)
    // It is not lost if a replay has delivered it.
    else if (reference?.table !== 'message' || reference.position > this.#replayedTo) {
      this.#options.onLost(outcome!, reference, error)
    }
  }

  /** Notes that a message had no readers here, if it was announced. */
  #pass(position: number): void {
    const { heard } = this.#detector
    if (heard !== undefined && position <= heard && position > this.#replayedTo)
      this.#delivered.pass(position)
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
