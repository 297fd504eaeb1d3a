import { isInteger, isObject } from '../../../json-value.js'
import { isSessionOf, keysOf, newSession, newSessionsKey, seal, unseal } from './sealed-commands.js'

/** Larger texts take several notifications: the node is asked first whether it has the session. */
const LARGE = 4096

/** Commands for another node. */
interface SealedCommands {
  id: string
  /** Empty: is the session there? */
  sealed: string
  /** Who sends them, and which of its sealed commands they are; older servers do not say. */
  from?: string
  number?: number
}

interface EmulatedSession {
  key: Buffer
  receive: (text: string) => void
  /** The last number of each node. */
  last: Map<string, number>
}

/** The other nodes, as sessions need them. */
export interface SessionNodes {
  /** What another node's sessions show; undefined where it is of an older version, or there is none. */
  sessionsOf(node: string): string | undefined
  /** Whether there are nodes that do not number what they send. */
  readonly outdated: boolean
  /**
   * Hands commands to another node, with what its `answer` takes.
   * @returns what that returns; false where there is no such node
   * @throws NodesUnavailable (503)
   */
  commands(node: string, args: object): Promise<boolean>
}

/**
 * The sessions of clients whose commands come in requests of their own, which may arrive at any node. Between nodes
 * they go through the database, sealed.
 */
export class Emulation {
  /** What shows that a session is one of this node: the others are told. */
  readonly sessions = newSessionsKey()
  readonly #node: string
  #nodes: SessionNodes | undefined
  readonly #sessions = new Map<string, EmulatedSession>()
  /** Large texts on their way, by session: what comes after them has to wait. */
  readonly #large = new Map<string, Promise<unknown>>()
  #lastNumber = 0

  /** @param node this node's id */
  constructor(node: string) {
    this.#node = node
  }

  /** Sessions of other nodes are reached by way of these. */
  attach(nodes: SessionNodes): void {
    this.#nodes = nodes
  }

  /**
   * Makes a session.
   * @param receive takes its commands
   * @returns what its client has to send with each command; `end` forgets it
   */
  begin(receive: (text: string) => void): { details: { session: string; node: string }; end: () => void } {
    const session = newSession(this.sessions)
    const { id, key } = keysOf(session)
    this.#sessions.set(id, { key, receive, last: new Map() })
    return { details: { session, node: this.#node }, end: () => this.#sessions.delete(id) }
  }

  /**
   * Takes commands for a session of any node. The order of the calls is that of the commands.
   * @returns whether there is such a session
   * @throws NodesUnavailable (503) where another node cannot be asked
   */
  async receive(session: string, node: string, text: string): Promise<boolean> {
    const { id, key } = keysOf(session)
    if (node === this.#node) {
      const known = this.#sessions.get(id)
      known?.receive(text)
      return known !== undefined
    }
    const sessions = this.#nodes!.sessionsOf(node)
    // A stranger must not have the database say anything.
    if (sessions !== undefined && !isSessionOf(sessions, session)) return false
    const ask = () => this.#nodes!.commands(node, this.#seal(id, key, text, sessions !== undefined))
    const before = this.#large.get(id)
    if (text.length <= LARGE && before === undefined) return ask()
    const asked = (async () => {
      await before?.catch(() => {})
      // The session may have ended: the database must not carry large texts for it.
      if (text.length > LARGE && !(await this.#nodes!.commands(node, { id, sealed: '' }))) return false
      return ask()
    })()
    this.#large.set(id, asked)
    try {
      return await asked
    } finally {
      if (this.#large.get(id) === asked) this.#large.delete(id)
    }
  }

  /**
   * Answers another node. Whoever has SQL may ask: what does not open is for no session, and what has been taken is not
   * taken again. A node's questions come in order, so one number is all that is kept of it.
   */
  answer(args: unknown): boolean {
    if (!isObject(args)) return false
    const { id, sealed, from, number } = args
    if (typeof id !== 'string' || typeof sealed !== 'string') return false
    const known = this.#sessions.get(id)
    if (known === undefined) return false
    if (sealed === '') return true
    const numbered = typeof from === 'string' && isInteger(number) ? { from, number } : undefined
    if (numbered === undefined && !this.#nodes!.outdated) return false
    const text = unseal(
      known.key,
      sealed,
      numbered === undefined ? '' : `${numbered.from} ${numbered.number}`
    )
    if (text === undefined) return false
    if (numbered !== undefined) {
      if (numbered.number <= (known.last.get(numbered.from) ?? 0)) return false
      known.last.set(numbered.from, numbered.number)
    }
    known.receive(text)
    return true
  }

  #seal(id: string, key: Buffer, text: string, numbered: boolean): SealedCommands {
    if (!numbered) return { id, sealed: seal(key, text, '') }
    const from = this.#node
    const number = ++this.#lastNumber
    return { id, sealed: seal(key, text, `${from} ${number}`), from, number }
  }
}
