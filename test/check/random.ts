/** Random numbers that are the same for the same seed (mulberry32). */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed | 0
  }

  /** From 0 to 1, which is excluded. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let value = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296
  }

  /** An integer from 0 to `count`, which is excluded. */
  below(count: number): number {
    return Math.floor(this.next() * count)
  }

  /** Returns true with this probability. */
  chance(probability: number): boolean {
    return this.next() < probability
  }

  one<Item>(list: readonly Item[]): Item {
    return list[this.below(list.length)]!
  }

  /** Another sequence of numbers, for a part that is independent of the others. */
  fork(): Random {
    return new Random(this.below(2 ** 31))
  }
}
