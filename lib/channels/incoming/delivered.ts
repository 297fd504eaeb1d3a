import { randomInt } from 'node:crypto'

/** The maximum number of deliveries in each of the two parts, some 15 MB in total. */
const MAX_PART = 125_000

/** How many of the last proven deliveries are kept, to compare them with the database's messages at their positions. */
const SAMPLE = 64

/** The hash of a message that was not read, because nobody here wanted it. */
const UNREAD = -1

/** A message that was delivered. */
interface Delivery {
  readonly position: number
  /** A hash of its text, or UNREAD. */
  readonly hash: number
}

/**
 * The durable messages that have been delivered. Up to the floor, all of them have been. Only the database can raise the
 * floor, because any role may send a notification with any position. Beyond the floor, the position and a hash of the
 * text of each delivery are stored, so that a replay from the floor sends nothing twice.
 *
 * Deliveries are stored in two parts: those before the last mark, and later ones. A message that was delivered before the
 * database is asked for its last position is at or below that position, or forged. So the earlier part can be dropped.
 */
export class Delivered {
  #floor: number | undefined
  #earlier: Delivery[] = []
  #later: Delivery[] = []
  /** Both parts, by a number made of position and hash. It is built when a replay needs it. */
  #keys: Set<number> | undefined
  #leastLater = Number.POSITIVE_INFINITY
  /** Whether the earlier part holds exactly what was delivered before the mark. */
  #marked = false
  /** The last proven deliveries. */
  #sample: Delivery[] = []
  /** Random, so that nobody can construct texts with the same hash. */
  readonly #seed = randomInt(2 ** 32)

  /** The position up to which everything has been delivered; undefined until the database has been asked. */
  get floor(): number | undefined {
    return this.#floor
  }

  /** Raises the floor, because the database says that everything up to a position has been delivered. */
  raise(position: number): void {
    this.#floor = Math.max(this.#floor ?? 0, position)
  }

  /** Starts again from a position, because the positions of another database have no relation to the earlier ones. */
  restart(position: number): void {
    this.#floor = position
    this.#earlier = []
    this.#later = []
    this.#keys = undefined
    this.#leastLater = Number.POSITIVE_INFINITY
    this.#marked = false
    this.#sample = []
  }

  /** The positions of the last proven deliveries. */
  get sample(): number[] {
    return this.#sample.map(({ position }) => position)
  }

  /** Whether the sample has a delivery with this position and text. */
  isSample(position: number, text: string): boolean {
    return this.#sample.some((one) => one.position === position && one.hash === this.#hash(text))
  }

  /** Notes that a message was delivered. */
  add(position: number, text: string): void {
    this.#add(position, this.#hash(text))
  }

  /**
   * Notes that a message had no readers here, and was not read. Later readers get it from the database.
   * @param position one that the database has announced: any role may send a reference to a message that is yet to come
   */
  pass(position: number): void {
    this.#add(position, UNREAD)
  }

  #add(position: number, hash: number): void {
    if (this.#floor !== undefined && position <= this.#floor) return
    if (this.#later.length >= MAX_PART) this.#overflow()
    this.#later.push({ position, hash })
    this.#keys = undefined
    if (position < this.#leastLater) this.#leastLater = position
  }

  /** Whether a message with this position and text was delivered, or passed, beyond the floor. */
  has(position: number, text: string): boolean {
    this.#keys ??= new Set(
      [...this.#earlier, ...this.#later].map(({ position, hash }) => keyOf(position, hash))
    )
    if (this.#keys.size === 0) return false
    return this.#keys.has(keyOf(position, this.#hash(text))) || this.#keys.has(keyOf(position, UNREAD))
  }

  /** The positions of the deliveries beyond the floor. Some may be forged. */
  positions(): Set<number> {
    return new Set([...this.#earlier, ...this.#later].map(({ position }) => position))
  }

  /** To be called before the database is asked for its last position. */
  mark(): void {
    // Deliveries of a mark that was never proven are proven by this one.
    if (this.#earlier.length === 0) this.#rotate()
    this.#marked = true
  }

  /** Cancels the mark, because an answer of the database no longer proves what was delivered before it. */
  unmark(): void {
    this.#marked = false
  }

  /**
   * Raises the floor to the last delivery at or below a position, because all notifications up to it have been delivered.
   * It is not raised further, because the answer may come from another server than the notifications (failover).
   * @param latest the position that the database answered after the mark
   */
  prove(latest: number): void {
    if (!this.#marked) return
    this.#marked = false
    for (const { position } of this.#earlier) if (position <= latest) this.raise(position)
    const read = this.#earlier.filter(({ hash }) => hash !== UNREAD)
    if (read.length > 0) this.#sample = read.slice(-SAMPLE)
    this.#earlier = []
    this.#keys = undefined
  }

  /** Raises the floor to a position up to which nothing is missing, whatever was delivered. */
  settle(position: number): void {
    this.raise(position)
    const settled = [...this.#earlier, ...this.#later].filter((one) => one.position <= position)
    if (settled.length === 0) return
    const read = settled.filter(({ hash }) => hash !== UNREAD)
    if (read.length > 0) this.#sample = read.slice(-SAMPLE)
    this.#earlier = this.#earlier.filter((one) => one.position > position)
    this.#later = this.#later.filter((one) => one.position > position)
    this.#keys = undefined
  }

  /**
   * Drops the earlier part, because there are too many deliveries. Later messages follow the first of the later part,
   * unless all of that part is forged.
   */
  #overflow(): void {
    if (this.#earlier.length > 0 && this.#floor !== undefined) this.raise(this.#leastLater - 1)
    this.#rotate()
    // A pending answer of the database does not cover these.
    this.#marked = false
  }

  #rotate(): void {
    this.#earlier = this.#later
    this.#later = []
    this.#keys = undefined
    this.#leastLater = Number.POSITIVE_INFINITY
  }

  /** FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), of UTF-16 code units, with a seed of our own. */
  #hash(text: string): number {
    let hash = this.#seed
    for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
    return hash >>> 0
  }
}

/** The same text has a different key at each of 2^20 consecutive positions, which is more than are stored. */
function keyOf(position: number, hash: number): number {
  return (position % 2 ** 20) * 2 ** 33 + hash + 1
}
