import type { Beat, Announcement as BusAnnouncement } from '../../bus/index.js'
import { type Announcement, type Message, type Reference, readNotification } from '../../messages/index.js'
import type { ChannelOrder } from './channel-order.js'
import { Delivered } from './delivered.js'
import { GapDetector } from './gap-detector.js'
import type { LossReason } from './losses.js'
import { type Arrival, durablePositionOf, type Item, isUnread, positionOf, type Tally } from './queue-item.js'
import { ReferenceReader, type Resolve } from './reference-reader.js'

/** What ends a notification whose message comes over the bus, too (pgws.relay_as in lib/schema/sql). */
const OVER_THE_BUS = '\t'

export interface IncomingQueueOptions {
  /** The channel of notifications that do not name one. */
  listenChannel: string
  /** Returns the number of clients that the message was delivered to. */
  deliver: (message: Message) => number
  /** Whether the channel has readers on this server. */
  wanted: (channel: string) => boolean
  resolve: Resolve
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
  /** What has arrived over the bus; undefined without one. */
  order?: ChannelOrder | undefined
  /** Is called for each message of the bus that was delivered, with its position and the number of clients. */
  onDelivered?: (position: number, delivered: number) => void
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
  readonly #reader: ReferenceReader

  constructor(options: IncomingQueueOptions) {
    this.#options = options
    this.#reader = new ReferenceReader(options.resolve)
  }

  /** Where a replay begins. Durable messages up to this position have arrived, or are older than this server. */
  get floor(): number | undefined {
    return this.#delivered.floor
  }

  /** To be called with the database's last position when the server starts. */
  startAt(position: number): void {
    this.#delivered.raise(position)
    this.#options.order?.restart(position)
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
    // What the bus carries may come later than the probe; beats say what has arrived.
    if (this.#options.order !== undefined && this.#detector.heard === undefined) return true
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

  /**
   * To be called before missing messages are read from the database. What is in the queue by then does not wait for a gap
   * before it, because all that is missing is read.
   */
  cover(): void {
    this.#covered = this.#queue.length
  }

  /** Takes an announcement of the messages that come next. */
  announce(announcement: Announcement): void {
    if (!this.#options.replays) return
    this.#followBus()
    const alone = !this.#waiting && !this.#held
    if (!alone || !this.#detector.announced(announcement)) this.#push({ announcement })
  }

  /** Takes the payload of a notification of the listen channel. */
  receive(payload: string): void {
    const { listenChannel, wanted, onMessage, onLost, order } = this.#options
    if (order !== undefined && payload.endsWith(OVER_THE_BUS)) return
    const received = readNotification(payload, listenChannel)
    onMessage('sentAt' in received && received.sentAt ? received.sentAt : undefined)
    if ('refused' in received) {
      onLost(received.refused)
      return
    }
    const tally = this.#tally
    if ('message' in received) {
      const { position } = received.message
      if (position !== undefined) this.#followBus()
      const alone = !this.#waiting && !this.#held
      if (alone && (position === undefined || this.#detector.arrived(position))) {
        this.#deliver(received.message, tally)
      } else this.#push({ outcome: received.message, tally })
      return
    }
    const { reference } = received
    if (reference.table === 'message') this.#followBus()
    // Without readers here, it need not be read.
    const unwanted = reference.channel !== undefined && !wanted(reference.channel)
    this.#push({ reference, outcome: unwanted ? null : undefined, tally })
  }

  /** Takes a message that the bus carries. */
  receiveAnnounced({ text, ...place }: BusAnnouncement): void {
    const { listenChannel, onMessage, onLost, wanted } = this.#options
    const order = this.#options.order!
    const { channel, position } = place
    const found = order.placeOf(place)
    if (found === 'known') return
    const arrival: Arrival = { tally: undefined, outcome: undefined, place }
    const received = text === undefined ? undefined : readNotification(text, listenChannel)
    if (received !== undefined && 'sentAt' in received) {
      onMessage(received.sentAt || undefined)
      if (!this.#waiting && !this.#held && found === 'next') {
        this.#deliver(received.message, undefined, position)
        return
      }
      arrival.outcome = received.message
    } else if (received !== undefined && 'refused' in received) {
      onLost(received.refused)
      arrival.outcome = null
    } else {
      onMessage(undefined)
      arrival.reference = { table: 'log', position, channel }
      // Without readers here, it need not be read.
      if (!wanted(channel)) arrival.outcome = null
    }
    this.#push(arrival)
  }

  /** Takes a beat of the bus, which says up to where was announced. */
  beat(beat: Beat): void {
    const alone = !this.#waiting && !this.#held
    if (!alone || !this.#passes(beat)) this.#push({ beat })
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
   * @param position its place among all messages, if it is of a channel that nobody retains
   * @returns the number of clients that it was delivered to
   */
  replay(message: Message, position = message.position!): number {
    // A beat has confirmed it while it was read from the database.
    if (position <= (this.#delivered.floor ?? 0)) return 0
    const known =
      this.#delivered.has(position, message.text) ||
      this.#options.order?.isOlder(message.channel, position) === true
    this.#replayedTo = position
    this.#delivered.raise(position)
    if (known) return 0
    const delivered = this.#options.deliver(message)
    this.#options.onDelivered?.(position, delivered)
    return delivered
  }

  /** Starts again from a position, because the database was restored or replaced. */
  restart(position: number): void {
    this.#replayedTo = position
    this.#delivered.restart(position)
    this.#options.order?.forget()
    this.#options.order?.restart(position)
  }

  /** To be called when everything up to a position has been read from the database. Forgets what waits and is among it. */
  caughtUp(position: number): void {
    const { order } = this.#options
    if (order === undefined) return
    for (const item of this.#queue.slice(0, this.#covered)) {
      if ('place' in item && item.place !== undefined) order.covered(item.place)
    }
    order.restart(position)
    this.#delivered.raise(position)
    this.#queue = this.#queue.filter((item) => !('place' in item) || item.place!.position > position)
    this.#covered = Math.min(this.#covered, this.#queue.length)
  }

  /** Delivers what waits, after a replay. */
  release(): void {
    this.#held = false
    if (!this.#waiting) this.#work()
  }

  /** Delivers what waits, while what arrives goes on waiting. */
  deliverWaiting(): void {
    if (!this.#held || this.#waiting) return
    this.#held = false
    // What must be read from a table first waits for the next call.
    this.#work()
    this.#held = true
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
      const unread = this.#reader.next(this.#queue)
      if (unread.length > 0) await this.#reader.read(unread, this.#queue)
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
        else if (!('announcement' in next || 'beat' in next)) this.#settle(next)
      }
    }
    this.#waiting = false
  }

  /** Whether nothing is missing before the first of the queue, as far as is known. */
  #isNext(item: Item): boolean {
    if ('counted' in item) return true
    if ('announcement' in item) return this.#detector.announced(item.announcement) || this.#covered > 0
    if ('beat' in item) return this.#passes(item.beat) || this.#covered > 0
    if (item.place !== undefined) {
      const order = this.#options.order!
      if (order.placeOf(item.place) !== 'gap') return true
      if (this.#covered === 0) return false
      order.covered(item.place)
      return true
    }
    const position = durablePositionOf(item)
    return position === undefined || this.#detector.arrived(position) || this.#covered > 0
  }

  /** @returns false if something is missing up to the beat */
  #passes(beat: Beat): boolean {
    if (!this.#options.order!.beat(beat)) return false
    this.#delivered.settle(beat.to)
    // From then on, the database announces nothing by notifications. But a beat may be late: the sequencer may have changed to
    // a server without a bus meanwhile, and notifications are followed.
    if ((this.#detector.announcedTo ?? 0) <= beat.to) this.#detector.follow(undefined)
    return true
  }

  /** The first notification after a time with a bus: everything that was announced over the bus must have arrived. */
  #followBus(): void {
    const { order } = this.#options
    if (order !== undefined && this.#detector.heard === undefined) this.follow(order.floor)
  }

  #gap(): void {
    this.#held = true
    this.#options.onGap()
  }

  #settle({ outcome, reference, error, tally, place }: Arrival): void {
    if (place !== undefined) {
      const order = this.#options.order!
      // It came a second time, or was read from the database meanwhile.
      if (order.placeOf(place) === 'known') return
      order.arrived(place.channel, place.position)
    }
    if (outcome === null) {
      if (reference?.table === 'message') this.#pass(reference.position)
      return
    }
    if (typeof outcome === 'object') this.#deliver(outcome, tally, place?.position)
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

  #deliver(message: Message, tally: Tally | undefined, position = message.position): void {
    if (position !== undefined) {
      if (position <= this.#replayedTo) return
      if (this.#options.replays) this.#delivered.add(position, message.text)
      this.#options.order?.arrived(message.channel, position)
    }
    const delivered = this.#options.deliver(message)
    if (tally !== undefined) tally.delivered += delivered
    if (position !== undefined) this.#options.onDelivered?.(position, delivered)
  }
}
