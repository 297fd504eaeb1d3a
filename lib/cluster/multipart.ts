import { TextParts } from '../messages/index.js'

/** An incomplete question is forgotten after so many milliseconds, and the oldest where all take so many characters. */
const TIMEOUT = 10_000
const MAX_LENGTH = 16 * 1024 * 1024

/** What a question takes beside its parts. */
const OVERHEAD = 100

interface Gathered {
  parts: TextParts
  /** As `performance.now()` has it. */
  begunAt: number
}

/** Puts questions together that took several notifications. Whoever has SQL may send some, so there are limits. */
export class Multipart {
  readonly #gathered = new Map<string, Gathered>()
  #length = 0

  /**
   * Adds a part; they come in order, and where one was lost the question is.
   * @param key the question's, of whoever asks
   * @returns what the text of all parts says, once it is complete
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
