import { randomInt } from 'node:crypto'

/** At most so many deliveries are kept in each of two parts: some 10 MB in all. */
const MAX_PART = 125_000

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
  /** Of both parts: the position, by a number that is made of position and text. */
  #earlier = new Map<number, number>()
  #later = new Map<number, number>()
  #leastLater = Number.POSITIVE_INFINITY
  /** The earlier part is what was delivered before the mark. */
  #marked = false
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
    this.#earlier.clear()
    this.#later.clear()
    this.#leastLater = Number.POSITIVE_INFINITY
    this.#marked = false
  }

  /** A message was delivered. */
  add(position: number, text: string): void {
    if (this.#floor !== undefined && position <= this.#floor) return
    if (this.#later.size >= MAX_PART) this.#overflow()
    this.#later.set(this.#keyOf(position, text), position)
    if (position < this.#leastLater) this.#leastLater = position
  }

  /** Whether a message was delivered beyond the floor, with that text. */
  has(position: number, text: string): boolean {
    if (this.#earlier.size === 0 && this.#later.size === 0) return false
    const key = this.#keyOf(position, text)
    return this.#earlier.has(key) || this.#later.has(key)
  }

  /** The positions of what was delivered beyond the floor; some may be forged. */
  positions(): Set<number> {
    return new Set([...this.#earlier.values(), ...this.#later.values()])
  }

  /** The database is about to be asked for its last position. */
  mark(): void {
    // Those of a mark that was never proven are proven by this one.
    if (this.#earlier.size === 0) this.#rotate()
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
    for (const position of this.#earlier.values()) if (position <= latest) this.raise(position)
    this.#earlier = new Map()
  }

  /** Too many are kept. Those to come are behind the first of the later part, unless all of that is forged. */
  #overflow(): void {
    if (this.#earlier.size > 0 && this.#floor !== undefined) this.raise(this.#leastLater - 1)
    this.#rotate()
    // What was asked before is not for these.
    this.#marked = false
  }

  #rotate(): void {
    this.#earlier = this.#later
    this.#later = new Map()
    this.#leastLater = Number.POSITIVE_INFINITY
  }

  /** One text has another number at each of 2^21 positions in a row: more than are kept. */
  #keyOf(position: number, text: string): number {
    return (position % 2 ** 21) * 2 ** 32 + this.#hash(text)
  }

  /** FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), of UTF-16 code units, with a seed of our own. */
  #hash(text: string): number {
    let hash = this.#seed
    for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
    return hash >>> 0
  }
}
