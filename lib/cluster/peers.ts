import type { NodeState } from './node-message.js'

/** Another node, as it was last heard. */
export interface Peer extends NodeState {
  id: string
  /** Milliseconds since the epoch. */
  lastSeen: number
}

interface Entry extends Peer {
  /** How many heartbeats of our own have come since it was last heard. */
  missed: number
}

export interface PeersOptions {
  /** After how much silence a node is gone, in milliseconds. */
  timeout: number
  onJoin: (member: Peer) => void
  onLeave: (member: Peer) => void
}

/** At most so many other nodes are known: whoever has SQL may say that it is one. */
const MAX_MEMBERS = 1000

/** At most so many of our own timeouts a node stays that is silent: whoever has SQL may say any of its own. */
const MAX_TIMEOUTS = 10

/** So many heartbeats make a timeout. */
export const BEATS = 4

/**
 * The other nodes. How long one has been silent is counted in heartbeats of our own that came back from the
 * database: where we hear nothing ourselves, or were stopped for a while, nobody is taken for dead.
 */
export class Peers {
  readonly #options: PeersOptions
  readonly #entries = new Map<string, Entry>()

  constructor(options: PeersOptions) {
    this.#options = options
  }

  get ids(): string[] {
    return [...this.#entries.keys()]
  }

  get all(): Peer[] {
    return [...this.#entries.values()].map(({ missed: _, ...member }) => member)
  }

  get(id: string): Peer | undefined {
    return this.#entries.get(id)
  }

  has(id: string): boolean {
    return this.#entries.has(id)
  }

  /** A node was heard. */
  heard(id: string): void {
    const entry = this.#entries.get(id)
    if (entry === undefined) return
    entry.missed = 0
    entry.lastSeen = Date.now()
  }

  /** A node has told of itself. Passed over where too many have already. */
  update(id: string, state: NodeState): void {
    const isNew = !this.#entries.has(id)
    if (isNew && this.#entries.size >= MAX_MEMBERS) return
    const entry = { ...state, id, lastSeen: Date.now(), missed: 0 }
    this.#entries.set(id, entry)
    if (isNew) this.#options.onJoin(entry)
  }

  /** A heartbeat of our own has come back: who has been silent for too many of them is gone. */
  beat(): void {
    const { timeout } = this.#options
    for (const entry of this.#entries.values()) {
      // It may have been told another timeout, and is heard accordingly.
      const allowed = Math.min(Math.max(timeout, entry.timeout), timeout * MAX_TIMEOUTS)
      if ((++entry.missed * timeout) / BEATS >= allowed) this.delete(entry.id)
    }
  }

  delete(id: string): void {
    const entry = this.#entries.get(id)
    if (entry === undefined) return
    this.#entries.delete(id)
    this.#options.onLeave(entry)
  }
}
