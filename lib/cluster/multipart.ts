import { TextParts } from '../messages/index.js'

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
 * Reassembles questions that were split into several notifications. There are limits, because any role that may connect
 * to the database can send parts.
 */
export class Multipart {
  readonly #gathered = new Map<string, Gathered>()
  #length = 0

  /**
   * Adds a part. Parts arrive in order; if one is lost, the question is lost.
   * @param key identifies the question and its sender
   * @returns the parsed JSON of all parts when the last one has arrived; otherwise undefined
   */
  add(key: string, part: number, text: string, last: boolean): unknown {
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
    try {
      return JSON.parse(gathered.parts.whole())
    } catch {
      return undefined
    }
  }

  #begin(key: string): void {
    this.#forget(key)
    this.#gathered.set(key, { parts: new TextParts(), begunAt: performance.now() })
    this.#length += key.length + OVERHEAD
  }

  #limit(): void {
    for (const [key, { begunAt }] of this.#gathered) {
      if (this.#length <= MAX_LENGTH && performance.now() - begunAt < TIMEOUT) return
      this.#forget(key)
    }
  }

  #forget(key: string): void {
    const gathered = this.#gathered.get(key)
    if (gathered === undefined) return
    this.#length -= gathered.parts.length + key.length + OVERHEAD
    this.#gathered.delete(key)
  }
}
