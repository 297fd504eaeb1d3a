import { setTimeout as sleep } from 'node:timers/promises'
import { TextParts } from '../messages/index.js'
import { decodePresence, encodeChanges, encodeState } from './node-sync-message.js'
import type { Presence, PresenceChange } from './presence.js'

/**
 * How many characters the members of one node may take (about a million members), and those of all nodes. The limits
 * exist because any role that may connect to the database can send such messages.
 */
const MAX_LENGTH = 75 * 1024 * 1024
const MAX_TOTAL_LENGTH = 256 * 1024 * 1024

/** How long changes are gathered after the last message, in milliseconds. A lone change is sent at once. */
export const GATHERING = 50

/** A part of a node's presence message; see NodeMessage. */
export interface PresencePart {
  id: number
  part: number
  last: boolean
  text: string
}

export interface NodeSyncOptions {
  presence: Presence
  /** Whether there are other nodes. */
  hasPeers: () => boolean
  /** Sends a message to all nodes, in the order of the calls. Rejects if that fails. */
  send: (message: object) => Promise<void>
  /** Asks a node to send all of its members. */
  ask: (node: string) => void
  /** The minimum time between two such requests to the same node, in milliseconds. */
  interval: number
}

/** What is known of another node. */
interface Peer {
  /** The number of its changes that this node has applied; undefined before its first full state. */
  version: number | undefined
  /** When it was last asked for its state (`performance.now()`). */
  askedAt: number
  /** The id of the message whose parts are arriving. */
  id: number | undefined
  readonly parts: TextParts
  /** The length of what is stored of its members, in characters. */
  known: number
}

/**
 * Keeps `Presence` the same on all nodes. Each node numbers its changes and sends them in order. Its heartbeats contain
 * the number of its last change, so a node that missed some notices it and asks for all members. A difference therefore
 * lasts until the next heartbeat at most.
 */
export class NodeSync {
  readonly #options: NodeSyncOptions
  readonly #peers = new Map<string, Peer>()
  /** The number of changes that were sent, or did not have to be sent because there are no other nodes. */
  #version = 0
  /** The length of what is stored, or being gathered, of all other nodes, in characters. */
  #length = 0
  #changes: PresenceChange[] = []
  /** Whether another node has asked for all members. */
  #asked = false
  #sending = false
  #turn: NodeJS.Immediate | undefined

  constructor(options: NodeSyncOptions) {
    this.#options = options
    options.presence.onLocalChange((change) => {
      if (this.#changes.length === 0 && !options.hasPeers()) {
        this.#version++
        return
      }
      this.#changes.push(change)
      this.#schedule()
    })
  }

  /** The number of changes that were sent before the next message. */
  get version(): number {
    return this.#version
  }

  /** Takes the number of changes from a node's heartbeat; undefined if it has no presence channels. */
  heard(node: string, version: number | undefined): void {
    if (version === undefined) return
    const peer = this.#peer(node)
    if (version === peer.version) return
    // A new node that has no members yet.
    if (version === 0 && peer.version === undefined) peer.version = 0
    else this.#ask(node, peer)
  }

  /** Answers another node's request for all members of this node. */
  asked(): void {
    this.#asked = true
    this.#schedule()
  }

  /** Takes a part of another node's message. Parts arrive in order; if one is lost, the message is lost. */
  receive(node: string, { id, part, last, text }: PresencePart): void {
    const peer = this.#peer(node)
    if (part === 0) {
      this.#drop(peer)
      peer.id = id
    }
    if (peer.id !== id || !this.#gather(peer, part, text)) {
      this.#drop(peer)
      return
    }
    if (!last) return
    const whole = peer.parts.whole()
    this.#drop(peer)
    this.#receive(node, peer, whole)
  }

  /** Forgets a node that has left. */
  forget(node: string): void {
    const peer = this.#peers.get(node)
    if (peer !== undefined) this.#length -= peer.parts.length + peer.known
    this.#peers.delete(node)
    this.#options.presence.forget(node)
  }

  /** @returns false if this exceeds a limit, or is not the next part */
  #gather({ parts }: Peer, part: number, text: string): boolean {
    const length = TextParts.lengthOf(text)
    if (parts.length + length > MAX_LENGTH || this.#length + length > MAX_TOTAL_LENGTH) return false
    if (!parts.add(part, text)) return false
    this.#length += length
    return true
  }

  /** Discards the parts of a message that is complete or lost. */
  #drop(peer: Peer): void {
    peer.id = undefined
    this.#length -= peer.parts.length
    peer.parts.clear()
  }

  /** @returns false if this exceeds a limit */
  #keep(peer: Peer, known: number): boolean {
    if (known > MAX_LENGTH || this.#length - peer.known + known > MAX_TOTAL_LENGTH) return false
    this.#length += known - peer.known
    peer.known = known
    return true
  }

  #receive(node: string, peer: Peer, text: string): void {
    const { presence } = this.#options
    const message = decodePresence(node, text)
    if (message === undefined) return
    if ('version' in message) {
      peer.version = message.version
      if (this.#keep(peer, text.length)) presence.replace(node, message.members)
    } else if (message.after === peer.version) {
      peer.version += message.changes.length
      // Members that leave take less, but only the next full state says how much.
      if (!this.#keep(peer, peer.known + text.length)) this.#ask(node, peer)
      else for (const change of message.changes) presence.apply(node, change)
    } else this.#ask(node, peer)
  }

  /** If this request or its answer is lost, the node's next heartbeat causes another. */
  #ask(node: string, peer: Peer): void {
    const now = performance.now()
    if (now - peer.askedAt < this.#options.interval) return
    peer.askedAt = now
    this.#options.ask(node)
  }

  #peer(node: string): Peer {
    let peer = this.#peers.get(node)
    if (peer === undefined) {
      peer = {
        version: undefined,
        askedAt: Number.NEGATIVE_INFINITY,
        id: undefined,
        parts: new TextParts(),
        known: 0
      }
      this.#peers.set(node, peer)
    }
    return peer
  }

  #schedule(): void {
    if (!this.#sending) this.#turn ??= setImmediate(() => this.#flush())
  }

  /** Sends the changes of this turn of the event loop, or since the last message, together. */
  async #flush(): Promise<void> {
    this.#turn = undefined
    const { presence, hasPeers, send } = this.#options
    const changes = this.#changes
    const after = this.#version
    this.#changes = []
    this.#version += changes.length
    const sends: Promise<void>[] = []
    if (changes.length > 0 && hasPeers()) sends.push(send(encodeChanges(after, changes)))
    // After the changes, because the state includes them.
    if (this.#asked) sends.push(send(encodeState(this.#version, presence.local())))
    this.#asked = false
    if (sends.length === 0) return
    this.#sending = true
    await Promise.allSettled([...sends, sleep(GATHERING, undefined, { ref: false })])
    this.#sending = false
    if (this.#changes.length > 0 || this.#asked) this.#schedule()
  }
}
