import { TextParts } from '../messages/index.js'

/** How long to wait for an answer, and for each further part of one, in milliseconds. */
const DEADLINE = 2000

/** How long to wait at most, whatever still comes, in milliseconds. */
const LAST_DEADLINE = 10_000

/** Of all answers to one question at most so many characters are kept: whoever has SQL may send some. */
const MAX_LENGTH = 64 * 1024 * 1024

/** What other nodes answer to one question. */
export class Answers {
  readonly #expected: Set<string>
  readonly #values = new Map<string, unknown>()
  readonly #parts = new Map<string, TextParts>()
  #length = 0
  #done: (() => void) | undefined
  #timer: NodeJS.Timeout | undefined

  /** @param expected the nodes that should answer; an answer of another counts, too */
  constructor(expected: Iterable<string>) {
    this.#expected = new Set(expected)
  }

  /** The nodes that did not answer. */
  get missing(): string[] {
    return [...this.#expected].filter((node) => !this.#values.has(node))
  }

  add(node: string, value: unknown): void {
    this.#values.set(node, value)
    this.#check()
  }

  /** Adds a part of an answer; they come in order, and where one was lost the answer is. */
  addPart(node: string, part: number, text: string, last: boolean): void {
    const parts = this.#parts.get(node) ?? new TextParts()
    const length = this.#length + TextParts.lengthOf(text)
    if (length > MAX_LENGTH || !parts.add(part, text)) return
    this.#length = length
    this.#parts.set(node, parts)
    if (!last) {
      this.#timer?.refresh()
      return
    }
    try {
      this.add(node, JSON.parse(parts.whole()))
    } catch {}
  }

  /** Does not wait for a node any more. */
  forget(node: string): void {
    this.#expected.delete(node)
    this.#check()
  }

  /**
   * The answers that have the right shape.
   * @param onMissing told of the nodes without one, if any
   */
  read<Value>(fits: (value: unknown) => value is Value, onMissing?: (nodes: string[]) => void): Value[] {
    const wrong = [...this.#values].filter(([, value]) => !fits(value)).map(([node]) => node)
    const without = [...this.missing, ...wrong]
    if (without.length > 0) onMissing?.(without)
    return [...this.#values.values()].filter(fits)
  }

  /** Resolves when all have answered, or after the deadline. */
  async wait(): Promise<this> {
    if (this.missing.length === 0) return this
    const done = new Promise<void>((resolve) => {
      this.#done = resolve
    })
    // Where this process was busy itself, answers that are there already are read first.
    const finish = () => setImmediate(() => this.#done!())
    this.#timer = setTimeout(finish, DEADLINE)
    const last = setTimeout(finish, LAST_DEADLINE)
    await done
    clearTimeout(this.#timer)
    clearTimeout(last)
    return this
  }

  #check(): void {
    if (this.missing.length === 0) this.#done?.()
  }
}
