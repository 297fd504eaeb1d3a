import type { NodeState } from './messages/node-message.js'

/** Another node, as of its last message. */
export interface Peer extends NodeState {
  id: string
  /** Milliseconds since the epoch. */
  lastSeen: number
}

interface Entry extends Peer {
  /** How many heartbeats of this node have arrived after the peer's last message. */
  missed: number
}

export interface PeersOptions {
  /** How long a node may be silent before it is regarded as gone, in milliseconds. */
  timeout: number
  onJoin: (peer: Peer) => void
  onLeave: (peer: Peer) => void
}

/** The maximum number of other nodes. The limit exists because any role that may connect can pretend to be a node. */
const MAX_PEERS = 1000

/** A silent node is kept for at most this many times the timeout of this node, whatever timeout it announced. */
const MAX_TIMEOUTS = 10

/** The number of heartbeats in a timeout. */
export const BEATS = 4

/**
 * The other nodes. The silence of a node is counted in heartbeats of this node that came back from the database. So no node is
 * declared dead while this one receives nothing, or after this process was stopped for a while.
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
    return [...this.#entries.values()].map(({ missed: _, ...peer }) => peer)
  }

  get(id: string): Peer | undefined {
    return this.#entries.get(id)
  }

  has(id: string): boolean {
    return this.#entries.has(id)
  }

  /** Notes that a message of a node has arrived. */
  heard(id: string): void {
    const entry = this.#entries.get(id)
    if (entry === undefined) return
    entry.missed = 0
    entry.lastSeen = Date.now()
  }

  /** Adds or updates a node. Does nothing for a new one if there are too many already. */
  update(id: string, state: NodeState): void {
    const isNew = !this.#entries.has(id)
    if (isNew && this.#entries.size >= MAX_PEERS) return
    const entry = { ...state, id, lastSeen: Date.now(), missed: 0 }
    this.#entries.set(id, entry)
    if (isNew) this.#options.onJoin(entry)
  }

  /** Counts a heartbeat of this node that came back, and removes nodes that have been silent for too many of them. */
  beat(): void {
    const { timeout } = this.#options
    for (const entry of this.#entries.values()) {
      // A node may be configured with another timeout, and sends its heartbeats accordingly.
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
