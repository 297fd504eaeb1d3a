import { setTimeout as sleep } from 'node:timers/promises'
import { TextParts } from '../messages/index.js'
import { decodePresence, encodeChanges, encodeState } from './node-sync-message.js'
import type { Presence, PresenceChange } from './presence.js'

/**
 * So many characters may come of one node's members, some million of them, and of all nodes: whoever has SQL may tell
 * of some.
 */
const MAX_LENGTH = 75 * 1024 * 1024
const MAX_TOTAL_LENGTH = 256 * 1024 * 1024

/** How long what comes after something was told is gathered, in milliseconds. A lone change is told at once. */
export const GATHERING = 50

/** A part of what a node tells; see NodeMessage. */
export interface PresencePart {
  id: number
  part: number
  last: boolean
  text: string
}

export interface PresenceExchangeOptions {
  presence: Presence
  /** Whether there is any other node. */
  accompanied: () => boolean
  /** Tells all nodes, in the order of the calls; rejects where that failed. */
  tell: (message: object) => Promise<void>
  /** Asks a node to tell all of its members. */
  ask: (node: string) => void
  /** How often the same node is asked at most, in milliseconds. */
  interval: number
}

/** What is known of another node. */
interface Peer {
  /** How many of its changes are known; undefined before its first state. */
  version: number | undefined
  /** When it was asked, as `performance.now()` has it. */
  askedAt: number
  /** The message that is coming in. */
  id: number | undefined
  readonly parts: TextParts
  /** How long what was told before of its members was. */
  known: number
}

/**
 * Keeps `Presence` the same on all nodes. Each node counts its changes and tells them in order; its heartbeats say how
 * many there were, so that who missed some asks for all of its members. What is lost on the way, or while nobody
 * listens, so lasts until the next heartbeat.
 */
export class NodeSync {
  readonly #options: PresenceExchangeOptions
  readonly #peers = new Map<string, Peer>()
  /** How many changes were told, or need not be. */
  #version = 0
  /** How long all is that is known, or being gathered, of the others. */
  #length = 0
  #changes: PresenceChange[] = []
  /** Somebody has asked for all members. */
  #asked = false
  #telling = false
  #turn: NodeJS.Immediate | undefined

  constructor(options: PresenceExchangeOptions) {
    this.#options = options
    options.presence.onLocalChange((change) => {
      this.#changes.push(change)
      this.#schedule()
    })
  }

  /** How many changes were told before whatever is told next. */
  get version(): number {
    return this.#version
  }

  /** A node has said how many changes there were; undefined: it has no presence channels. */
  heard(node: string, version: number | undefined): void {
    if (version === undefined) return
    const peer = this.#peer(node)
    if (version === peer.version) return
    // A new node, still without members.
    if (version === 0 && peer.version === undefined) peer.version = 0
    else this.#ask(node, peer)
  }

  /** Another node asks for all members of this one. */
  asked(): void {
    this.#asked = true
    this.#schedule()
  }

  /** Takes a part of what another node tells; parts come in order, and where one was lost the message is. */
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

  /** A node is gone. */
  gone(node: string): void {
    const peer = this.#peers.get(node)
    if (peer !== undefined) this.#length -= peer.parts.length + peer.known
    this.#peers.delete(node)
    this.#options.presence.forget(node)
  }

  /** @returns false where that is too much, or not the next part */
  #gather({ parts }: Peer, part: number, text: string): boolean {
    const length = TextParts.lengthOf(text)
    if (parts.length + length > MAX_LENGTH || this.#length + length > MAX_TOTAL_LENGTH) return false
    if (!parts.add(part, text)) return false
    this.#length += length
    return true
  }

  /** The parts that were gathered are whole, or lost. */
  #drop(peer: Peer): void {
    peer.id = undefined
    this.#length -= peer.parts.length
    peer.parts.clear()
  }

  /** @returns false where so much more cannot be kept */
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
      // Those who leave are no more to keep; the next state says how much that was.
      if (!this.#keep(peer, peer.known + text.length)) this.#ask(node, peer)
      else for (const change of message.changes) presence.apply(node, change)
    } else this.#ask(node, peer)
  }

  /** Where this, or the answer, is lost, the node's heartbeats lead to it again. */
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
    if (!this.#telling) this.#turn ??= setImmediate(() => this.#flush())
  }

  /** Tells what has come in this turn, or since the last was told: a crowd's changes go together. */
  async #flush(): Promise<void> {
    this.#turn = undefined
    const { presence, accompanied, tell } = this.#options
    const changes = this.#changes
    const after = this.#version
    this.#changes = []
    this.#version += changes.length
    const told: Promise<void>[] = []
    if (changes.length > 0 && accompanied()) told.push(tell(encodeChanges(after, changes)))
    // Behind the changes, which are in it.
    if (this.#asked) told.push(tell(encodeState(this.#version, presence.local())))
    this.#asked = false
    if (told.length === 0) return
    this.#telling = true
    await Promise.allSettled([...told, sleep(GATHERING, undefined, { ref: false })])
    this.#telling = false
    if (this.#changes.length > 0 || this.#asked) this.#schedule()
  }
}
