export interface MemberAnswersOptions {
  /** The channels of this node's members. */
  channels: () => Iterable<string>
  /** The line with all members of this node in a channel; undefined if there are none. */
  lineOf: (channel: string) => string | undefined
  /** Sends lines to a node. @param answer the number of the answer, if it has all members. Rejects if that fails. */
  send: (node: string, lines: readonly string[], answer: number | undefined) => Promise<void>
}

/** Answers other nodes that ask for members, once for all that they ask in a turn of the event loop. */
export class MemberAnswers {
  readonly #options: MemberAnswersOptions
  /** What other nodes have asked for: some channels, or all. */
  readonly #asked = new Map<string, Set<string> | 'all'>()
  #lastAnswer = 0
  #turn: NodeJS.Immediate | undefined

  constructor(options: MemberAnswersOptions) {
    this.#options = options
  }

  /** @param channel undefined: all channels */
  asked(node: string, channel?: string): void {
    const asked = this.#asked.get(node) ?? new Set()
    if (channel === undefined) this.#asked.set(node, 'all')
    else if (asked !== 'all') this.#asked.set(node, asked.add(channel))
    this.#turn ??= setImmediate(() => this.#answer())
  }

  /** Answers what could not be answered. */
  retry(): void {
    if (this.#asked.size > 0) this.#turn ??= setImmediate(() => this.#answer())
  }

  #answer(): void {
    this.#turn = undefined
    const all = [...this.#asked]
    this.#asked.clear()
    for (const [node, asked] of all) this.#answerTo(node, asked)
  }

  async #answerTo(node: string, asked: Set<string> | 'all'): Promise<void> {
    const { channels, lineOf, send } = this.#options
    const lines = [...(asked === 'all' ? channels() : asked)].flatMap((channel) => lineOf(channel) ?? [])
    if (lines.length === 0 && asked !== 'all') return
    try {
      await send(node, lines, asked === 'all' ? ++this.#lastAnswer : undefined)
    } catch {
      const more = this.#asked.get(node)
      const both = asked === 'all' || more === 'all' ? 'all' : new Set([...asked, ...(more ?? [])])
      this.#asked.set(node, both)
    }
  }
}
