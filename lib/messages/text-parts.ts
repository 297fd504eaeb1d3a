/** What a part takes beside its text, in characters: what is forged in many small ones counts, too. */
const OVERHEAD = 100

/**
 * A text that takes several notifications. Its parts come in order; where one was lost, so is the text. How much may be
 * gathered, and for how long, is for its owner to limit: whoever has SQL may send parts.
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
   * @param part its number, from 0 on
   * @returns false where it is not the next one: then nothing has been added
   */
  add(part: number, text: string): boolean {
    if (part !== this.#texts.length) return false
    this.#texts.push(text)
    this.#length += TextParts.lengthOf(text)
    return true
  }

  /** The parts in one. */
  whole(): string {
    return this.#texts.join('')
  }

  /** Forgets the parts. */
  clear(): void {
    this.#texts = []
    this.#length = 0
  }
}
