import { TextParts } from '../../messages/index.js'

/**
 * After how many milliseconds an incomplete question is dropped, and how many characters all of them may take before the
 * oldest is dropped.
 */
const TIMEOUT = 10_000
const MAX_LENGTH = 16 * 1024 * 1024

/** What a question counts in addition to its parts, in characters. */
const OVERHEAD = 100

interface Gathered {
  parts: TextParts
  /** `performance.now()`. */
  begunAt: number
}

/**
 * Reassembles questions and other messages that were split into several. There are limits, because any role that may connect
 * to the database can send parts.
 */
export class Multipart {
  readonly #gathered = new Map<string, Gathered>()
  /**
   * Iterates from the oldest entry on. It is not replaced while there are entries, because a Map keeps the slots of deleted
   * entries for some time, and a new iterator would step over all of them.
   */
  #byAge = this.#gathered.entries()
  /** The last one that has been examined, unless it was removed. */
  #oldest: [string, Gathered] | undefined
  #length = 0

  /**
   * Adds a part. Parts arrive in order; if one is lost, the question is lost.
   * @param key identifies the question and its sender
   * @returns the parsed JSON of all parts when the last one has arrived; otherwise undefined
   */
  add(key: string, part: number, text: string, last: boolean): unknown {
    const whole = this.addText(key, part, text, last)
    if (whole === undefined) return undefined
    try {
      return JSON.parse(whole)
    } catch {
      return undefined
    }
  }

  /** The same without parsing. */
  addText(key: string, part: number, text: string, last: boolean): string | undefined {
    if (part === 0) this.#begin(key)
    const gathered = this.#gathered.get(key)
    if (!gathered?.parts.add(part, text)) {
      this.#forget(key)
      return undefined
    }
    this.#length += TextParts.lengthOf(text)
    this.#limit()
    if (!last || !this.#gathered.has(key)) return undefined
    this.#forget(key)
    return gathered.parts.whole()
  }

  #begin(key: string): void {
    this.#forget(key)
    this.#gathered.set(key, { parts: new TextParts(), begunAt: performance.now() })
    this.#length += key.length + OVERHEAD
  }

  #limit(): void {
    while (this.#gathered.size > 0) {
      this.#oldest ??= this.#next()
      const [key, { begunAt }] = this.#oldest
      if (this.#length <= MAX_LENGTH && performance.now() - begunAt < TIMEOUT) return
      this.#forget(key)
    }
  }

  /** The oldest entry, if there is one. Entries before it have been removed. */
  #next(): [string, Gathered] {
    const next = this.#byAge.next()
    if (!next.done) return next.value
    this.#byAge = this.#gathered.entries()
    return this.#byAge.next().value!
  }

  #forget(key: string): void {
    const gathered = this.#gathered.get(key)
    if (gathered === undefined) return
    this.#length -= gathered.parts.length + key.length + OVERHEAD
    this.#gathered.delete(key)
    if (this.#oldest?.[0] === key) this.#oldest = undefined
  }
}
