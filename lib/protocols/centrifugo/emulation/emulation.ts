import { isInteger, isObject } from '../../../json-value.js'
import { isSessionOf, newSession, newSessionsKey, seal, sessionKeysOf, unseal } from './sealed-commands.js'

/** Above this size, which takes several notifications, the node is first asked whether it has the session, in bytes. */
const LARGE = 4096

/** Commands that are forwarded to another node. */
interface SealedCommands {
  id: string
  /** The encrypted commands; empty to ask whether the session exists. */
  sealed: string
  /** The sender, and the number of these among its sealed commands. Older releases send neither. */
  from?: string
  number?: number
}

interface EmulatedSession {
  key: Buffer
  receive: (data: Buffer) => void
  /** The last number from each node. */
  last: Map<string, number>
}

/** The part of the cluster that sessions use. */
export interface SessionNodes {
  /** The public part of another node's sessions; undefined for an older release or an unknown node. */
  sessionsOf(node: string): string | undefined
  /** Whether there are nodes of older releases, which do not number what they send. */
  readonly outdated: boolean
  /**
   * Forwards commands to another node.
   * @param args the arguments of the other node's `answer`
   * @returns the result of `answer`; false if the node is not known
   * @throws NodesUnavailable (503)
   */
  commands(node: string, args: object): Promise<boolean>
}

/**
 * The sessions of clients on HTTP transports. Their commands arrive in separate requests, at any node. Nodes forward them
 * through the database, encrypted.
 */
export class Emulation {
  /** The public part by which other nodes recognize the sessions of this node. */
  readonly sessions = newSessionsKey()
  readonly #node: string
  #nodes: SessionNodes | undefined
  readonly #sessions = new Map<string, EmulatedSession>()
  /** Large commands that are being forwarded, by session. Later commands of the session wait for them. */
  readonly #large = new Map<string, Promise<unknown>>()
  #lastNumber = 0

  /** @param node this node's id */
  constructor(node: string) {
    this.#node = node
  }

  /** Sets the other nodes, through which their sessions are reached. */
  attach(nodes: SessionNodes): void {
    this.#nodes = nodes
  }

  /**
   * Creates a session.
   * @param receive is called with its commands
   * @returns what the client must send with each command, and `end`, which removes the session
   */
  begin(receive: (data: Buffer) => void): { details: { session: string; node: string }; end: () => void } {
    const session = newSession(this.sessions)
    const { id, key } = sessionKeysOf(session)
    this.#sessions.set(id, { key, receive, last: new Map() })
    return { details: { session, node: this.#node }, end: () => this.#sessions.delete(id) }
  }

  /**
   * Takes commands for a session on any node, and keeps the order of the calls.
   * @returns whether the session exists
   * @throws NodesUnavailable (503) if the session is on another node that cannot be reached
   */
  async receive(session: string, node: string, data: Buffer): Promise<boolean> {
    const { id, key } = sessionKeysOf(session)
    if (node === this.#node) {
      const known = this.#sessions.get(id)
      known?.receive(data)
      return known !== undefined
    }
    const sessions = this.#nodes!.sessionsOf(node)
    // A made-up session must not cause traffic in the database.
    if (sessions !== undefined && !isSessionOf(sessions, session)) return false
    const ask = () => this.#nodes!.commands(node, this.#seal(id, key, data, sessions !== undefined))
    const before = this.#large.get(id)
    if (data.length <= LARGE && before === undefined) return ask()
    const answering = (async () => {
      await before?.catch(() => {})
      // The session may have ended. Do not send a lot in vain.
      if (data.length > LARGE && !(await this.#nodes!.commands(node, { id, sealed: '' }))) return false
      return ask()
    })()
    this.#large.set(id, answering)
    try {
      return await answering
    } finally {
      if (this.#large.get(id) === answering) this.#large.delete(id)
    }
  }

  /**
   * Takes commands that another node forwards. Any role that may connect to the database can send some, so commands that
   * cannot be decrypted, or that were taken before, are refused. A node's commands arrive in order, so it is enough to
   * store the last number of each.
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
    const data = unseal(
      known.key,
      sealed,
      numbered === undefined ? '' : `${numbered.from} ${numbered.number}`
    )
    if (data === undefined) return false
    if (numbered !== undefined) {
      if (numbered.number <= (known.last.get(numbered.from) ?? 0)) return false
      known.last.set(numbered.from, numbered.number)
    }
    known.receive(data)
    return true
  }

  #seal(id: string, key: Buffer, data: Buffer, numbered: boolean): SealedCommands {
    if (!numbered) return { id, sealed: seal(key, data, '') }
    const from = this.#node
    const number = ++this.#lastNumber
    return { id, sealed: seal(key, data, `${from} ${number}`), from, number }
  }
}
