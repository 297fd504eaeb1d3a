import { randomInt } from 'node:crypto'

/** At most so many deliveries are kept in each of two parts: some 15 MB in all. */
const MAX_PART = 125_000

/** So many of the last that were proven are kept, to be compared with what the database has at their positions. */
const SAMPLE = 64

/** What is known of a message that was delivered. */
interface Delivery {
  readonly position: number
  /** A hash of its text. */
  readonly hash: number
}

/**
 * The durable messages that have arrived. Up to a floor all of them have: the database has said so, and no notification
 * can, because any role may send one with any position. Of what was delivered beyond the floor, position and text are
 * known, so that a replay that begins at the floor sends nothing twice.
 *
 * Deliveries are kept in two parts, those before the last mark and those since. What was delivered before the database
 * is asked for its last position is at or below that position, or forged: so the earlier part is dropped whole.
 */
export class Delivered {
  #floor: number | undefined
  #earlier: Delivery[] = []
  #later: Delivery[] = []
  /** Both parts, by a number that is made of position and text; made when it is asked for, as a replay does. */
  #keys: Set<number> | undefined
  #leastLater = Number.POSITIVE_INFINITY
  /** The earlier part is what was delivered before the mark. */
  #marked = false
  /** The last that were proven. */
  #sample: Delivery[] = []
  /** Nobody outside knows which texts have the same hash. */
  readonly #seed = randomInt(2 ** 32)

  /** The position up to which everything has arrived; undefined: the database has not said any. */
  get floor(): number | undefined {
    return this.#floor
  }

  /** Everything up to a position has arrived, as the database says. */
  raise(position: number): void {
    this.#floor = Math.max(this.#floor ?? 0, position)
  }

  /** Positions begin anew. */
  restart(position: number): void {
    this.#floor = position
    this.#earlier = []
    this.#later = []
    this.#keys = undefined
    this.#leastLater = Number.POSITIVE_INFINITY
    this.#marked = false
    this.#sample = []
  }

  /** The positions of some of the last messages that were delivered up to the floor. */
  get sample(): number[] {
    return this.#sample.map(({ position }) => position)
  }

  /** Whether one of the sample has a text. */
  isSample(position: number, text: string): boolean {
    return this.#sample.some((one) => one.position === position && one.hash === this.#hash(text))
  }

  /** A message was delivered. */
  add(position: number, text: string): void {
    if (this.#floor !== undefined && position <= this.#floor) return
    if (this.#later.length >= MAX_PART) this.#overflow()
    this.#later.push({ position, hash: this.#hash(text) })
    this.#keys = undefined
    if (position < this.#leastLater) this.#leastLater = position
  }

  /** Whether a message was delivered beyond the floor, with that text. */
  has(position: number, text: string): boolean {
    this.#keys ??= new Set(
      [...this.#earlier, ...this.#later].map(({ position, hash }) => keyOf(position, hash))
    )
    return this.#keys.size > 0 && this.#keys.has(keyOf(position, this.#hash(text)))
  }

  /** The positions of what was delivered beyond the floor; some may be forged. */
  positions(): Set<number> {
    return new Set([...this.#earlier, ...this.#later].map(({ position }) => position))
  }

  /** The database is about to be asked for its last position. */
  mark(): void {
    // Those of a mark that was never proven are proven by this one.
    if (this.#earlier.length === 0) this.#rotate()
    this.#marked = true
  }

  /** What has come, or will come, is no proof for what was delivered before the mark. */
  unmark(): void {
    this.#marked = false
  }

  /**
   * All notifications of what was committed up to a position have been delivered: raises the floor to the last of them.
   * No further, in case the answer came from another server than the notifications, as during a failover.
   * @param latest what the database has answered after the mark
   */
  prove(latest: number): void {
    if (!this.#marked) return
    this.#marked = false
    for (const { position } of this.#earlier) if (position <= latest) this.raise(position)
    if (this.#earlier.length > 0) this.#sample = this.#earlier.slice(-SAMPLE)
    this.#earlier = []
    this.#keys = undefined
  }

  /** Too many are kept. Those to come are behind the first of the later part, unless all of that is forged. */
  #overflow(): void {
    if (this.#earlier.length > 0 && this.#floor !== undefined) this.raise(this.#leastLater - 1)
    this.#rotate()
    // What was asked before is not for these.
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

/** One text has another number at each of 2^21 positions in a row: more than are kept. */
function keyOf(position: number, hash: number): number {
  return (position % 2 ** 21) * 2 ** 32 + hash
}
