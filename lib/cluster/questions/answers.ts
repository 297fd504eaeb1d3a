import { TextParts } from '../../messages/index.js'

/** How long to wait for an answer, and for each further part of it, in milliseconds. */
const DEADLINE = 2000

/** How long to wait in total, even if parts still arrive, in milliseconds. */
const LAST_DEADLINE = 10_000

/**
 * How many characters all answers to one question may take. The limit exists because any role that may connect to the
 * database can send answers.
 */
const MAX_LENGTH = 64 * 1024 * 1024

/** The answers of other nodes to one question. */
export class Answers {
  readonly #expected: Set<string>
  readonly #values = new Map<string, unknown>()
  readonly #parts = new Map<string, TextParts>()
  #length = 0
  #done: (() => void) | undefined
  #timer: NodeJS.Timeout | undefined

  /** @param expected the nodes that should answer; answers of others count, too */
  constructor(expected: Iterable<string>) {
    this.#expected = new Set(expected)
  }

  /** The nodes that have not answered. */
  get missing(): string[] {
    return [...this.#expected].filter((node) => !this.#values.has(node))
  }

  add(node: string, value: unknown): void {
    this.#values.set(node, value)
    this.#check()
  }

  /** Adds a part of an answer. Parts arrive in order; if one is lost, the answer is lost. */
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

  /** Stops waiting for a node. */
  forget(node: string): void {
    this.#expected.delete(node)
    this.#check()
  }

  /**
   * The valid answers.
   * @param onMissing is called with the nodes that gave no valid answer, if there are any
   */
  read<Value>(isValid: (value: unknown) => value is Value, onMissing?: (nodes: string[]) => void): Value[] {
    const wrong = [...this.#values].filter(([, value]) => !isValid(value)).map(([node]) => node)
    const without = [...this.missing, ...wrong]
    if (without.length > 0) onMissing?.(without)
    return [...this.#values.values()].filter(isValid)
  }

  /** The same by node. */
  byNode<Value>(
    isValid: (value: unknown) => value is Value,
    onMissing?: (nodes: string[]) => void
  ): Map<string, Value> {
    this.read(isValid, onMissing)
    const valid = (entry: [string, unknown]): entry is [string, Value] => isValid(entry[1])
    return new Map([...this.#values].filter(valid))
  }

  /** Resolves when all nodes have answered, or after the deadline. */
  async wait(): Promise<this> {
    if (this.missing.length === 0) return this
    const done = new Promise<void>((resolve) => {
      this.#done = resolve
    })
    // If this process was busy, first read the answers that have already arrived.
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
