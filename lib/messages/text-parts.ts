/** What a part counts in addition to its text, in characters, because many small parts may be forged. */
const OVERHEAD = 100

/**
 * A text that is split into several notifications. Its parts arrive in order; if one is lost, the text is lost. The owner
 * must limit how much is gathered, and for how long, because any role that may connect to the database can send parts.
 */
export class TextParts {
  #texts: string[] = []
  #length = 0

  /** How much memory a part takes, in characters. */
  static lengthOf(text: string): number {
    return text.length + OVERHEAD
  }

  /** How much memory all parts take, in characters. */
  get length(): number {
    return this.#length
  }

  /**
   * Adds a part.
   * @param part its number, from 0
   * @returns false if it is not the next one; it is not added then
   */
  add(part: number, text: string): boolean {
    if (part !== this.#texts.length) return false
    this.#texts.push(text)
    this.#length += TextParts.lengthOf(text)
    return true
  }

  /** The text of all parts. */
  whole(): string {
    return this.#texts.join('')
  }

  /** Forgets the parts. */
  clear(): void {
    this.#texts = []
    this.#length = 0
  }
}
