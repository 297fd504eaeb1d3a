import { keysOf, newSession, seal, unseal } from './seal.js'

/** Larger texts take several notifications: the node is asked first whether it has the session. */
const LARGE = 4096

/** Commands for another node. */
interface SealedCommands {
  id: string
  /** Empty: is the session there? */
  sealed: string
}

export interface EmulationOptions {
  /** This node's id. */
  node: () => string
  /**
   * Asks another node, with what its `answer` takes.
   * @returns what that returns; false where there is no such node
   * @throws NodesUnavailable (503)
   */
  ask: (node: string, args: object) => Promise<boolean>
}

/**
 * The sessions of clients whose commands come in requests of their own, which may arrive at any node. Between nodes
 * they go through the database, sealed.
 */
export class Emulation {
  readonly #options: EmulationOptions
  readonly #sessions = new Map<string, { key: Buffer; receive: (text: string) => void }>()
  /** Large texts on their way, by session: what comes after them has to wait. */
  readonly #large = new Map<string, Promise<unknown>>()

  constructor(options: EmulationOptions) {
    this.#options = options
  }

  /**
   * Makes a session.
   * @param receive takes its commands
   * @returns what its client has to send with each command; `end` forgets it
   */
  begin(receive: (text: string) => void): { details: { session: string; node: string }; end: () => void } {
    const session = newSession()
    const { id, key } = keysOf(session)
    this.#sessions.set(id, { key, receive })
    return { details: { session, node: this.#options.node() }, end: () => this.#sessions.delete(id) }
  }

  /**
   * Takes commands for a session of any node. The order of the calls is that of the commands.
   * @returns whether there is such a session
   * @throws NodesUnavailable (503) where another node cannot be asked
   */
  async receive(session: string, node: string, text: string): Promise<boolean> {
    const { id, key } = keysOf(session)
    if (node === this.#options.node()) {
      const known = this.#sessions.get(id)
      known?.receive(text)
      return known !== undefined
    }
    const ask = () => this.#options.ask(node, { id, sealed: seal(key, text) } satisfies SealedCommands)
    const before = this.#large.get(id)
    if (text.length <= LARGE && before === undefined) return ask()
    const asked = (async () => {
      await before?.catch(() => {})
      // A stranger must not have the database carry large texts.
      if (text.length > LARGE && !(await this.#options.ask(node, { id, sealed: '' }))) return false
      return ask()
    })()
    this.#large.set(id, asked)
    try {
      return await asked
    } finally {
      if (this.#large.get(id) === asked) this.#large.delete(id)
    }
  }

  /** Answers another node. Whoever has SQL may ask: what does not open is for no session. */
  answer(args: unknown): boolean {
    const { id, sealed } = (args ?? {}) as Partial<Record<keyof SealedCommands, unknown>>
    const known = this.#sessions.get(id as string)
    if (known === undefined || typeof sealed !== 'string') return false
    if (sealed === '') return true
    const text = unseal(known.key, sealed)
    if (text === undefined) return false
    known.receive(text)
    return true
  }
}
