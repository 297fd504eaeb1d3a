import type { PresenceMember } from '../messages/index.js'
import type { ChannelChanges } from './channel-line.js'
import type { Presence } from './presence.js'

/**
 * How many characters the members of one node may take (about a million members), and those of all nodes. The limits
 * exist because any role that may connect to the database can send such messages.
 */
const MAX_LENGTH = 75 * 1024 * 1024
const MAX_TOTAL_LENGTH = 256 * 1024 * 1024

/** What a node announces of itself in `hello`, `here` and heartbeats. */
export interface Announced {
  type: 'hello' | 'here' | 'heartbeat'
  /** The number of presence changes that it has sent. */
  version: number
  /** The number of its heartbeats. */
  beats: number
}

export interface PeerMembersOptions {
  presence: Presence
  /** Whether lines reach only the nodes whose clients have joined the channel. Otherwise they reach all, in one order. */
  byChannel: boolean
  /** Asks a node for all of its members. */
  ask: (node: string) => void
  /** The minimum time between two such requests to the same node, in milliseconds. */
  interval: number
}

/** What is known of another node. */
interface Peer {
  /** The number of changes that it has sent. */
  version: number
  beats: number
  /** Whether something may be missing, so that all of its members are needed. */
  stale: boolean
  /** When it was last asked for them (`performance.now()`). */
  askedAt: number
  /** The number of the answer that is arriving. */
  answer: number | undefined
  /** The channels that the answer has had, or whose members were all sent since it began. */
  readonly complete: Set<string>
  /** The version of each channel's members, and the length of what was received of them, in characters. */
  readonly channels: Map<string, { version: number; length: number }>
  /** The sum of these lengths. */
  length: number
}

/**
 * The members that other nodes have in the channels that clients of this node have joined, with their versions. Notices what
 * is missing, and asks for it.
 */
export class PeerMembers {
  readonly #options: PeerMembersOptions
  readonly #peers = new Map<string, Peer>()
  #length = 0

  constructor(options: PeerMembersOptions) {
    this.#options = options
  }

  /**
   * Takes what a node announces.
   * @param wanted whether clients of this node have joined any channel
   */
  heard(node: string, { type, version, beats }: Announced, wanted: boolean): void {
    const { byChannel } = this.#options
    let peer = this.#peers.get(node)
    if (peer === undefined) {
      peer = {
        version,
        beats,
        // A new node has no members yet.
        stale: version > 0,
        askedAt: Number.NEGATIVE_INFINITY,
        answer: undefined,
        complete: new Set(),
        channels: new Map(),
        length: 0
      }
      this.#peers.set(node, peer)
    } else if (byChannel) {
      // A heartbeat is missing, or the node was interrupted: so others may be missing, too.
      if (type === 'hello' || beats !== peer.beats + (type === 'heartbeat' ? 1 : 0)) peer.stale = true
    } else if (version !== peer.version) peer.stale = true
    peer.version = version
    peer.beats = beats
    this.#askIfStale(node, peer, wanted)
  }

  /** Takes the numbers of changes that a message of a node has. */
  counted(node: string, after: number, version: number, wanted: boolean): void {
    const peer = this.#peers.get(node)
    if (peer === undefined || this.#options.byChannel) return
    const missed = after !== peer.version
    peer.version = version
    if (missed) this.#doubt(node, peer, wanted)
  }

  /** All of a node's members begin to arrive, or go on. */
  begin(node: string, answer: number): void {
    const peer = this.#peers.get(node)
    if (peer === undefined || peer.answer === answer) return
    peer.answer = answer
    peer.complete.clear()
  }

  /** All of a node's members have arrived: in other channels it has none. */
  end(node: string): void {
    const peer = this.#peers.get(node)
    if (peer?.answer === undefined) return
    for (const channel of [...peer.channels.keys()]) {
      if (peer.complete.has(channel)) continue
      this.#keep(peer, channel, undefined)
      this.#options.presence.replaceChannel(node, channel, [])
    }
    peer.answer = undefined
    peer.stale = false
    peer.complete.clear()
  }

  /**
   * Applies what a node says of a channel, if it follows on what is known.
   * @param length how long the text is, in characters
   * @param settling whether the node has just been asked for the channel's members
   */
  apply(node: string, line: ChannelChanges, length: number, settling: boolean): void {
    const peer = this.#peers.get(node)
    if (peer === undefined) return
    const { presence } = this.#options
    const { channel, after, version, changes } = line
    const known = peer.channels.get(channel)
    const complete = after === 0
    if (!complete && after !== known?.version) {
      // The answer that is on its way has it, too.
      if (!settling) this.#doubt(node, peer, true)
      return
    }
    const kept = { version, length: complete || known === undefined ? length : known.length + length }
    if (!this.#keep(peer, channel, kept)) {
      this.#doubt(node, peer, true)
      return
    }
    if (complete) {
      if (peer.answer !== undefined) peer.complete.add(channel)
      presence.replaceChannel(node, channel, membersAfter(line))
    } else for (const change of changes) presence.apply(node, change)
    if (!presence.hasMembers(node, channel)) this.#keep(peer, channel, undefined)
  }

  /** To be called when something that any node has sent may be missing. */
  doubt(wanted: boolean): void {
    for (const [node, peer] of this.#peers) this.#doubt(node, peer, wanted)
  }

  /** Forgets a node that has left. */
  forget(node: string): void {
    const peer = this.#peers.get(node)
    if (peer === undefined) return
    this.#length -= peer.length
    this.#peers.delete(node)
    this.#options.presence.forget(node)
  }

  /** Forgets the members of a channel that no client of this node has joined any more. */
  forgetChannel(channel: string): void {
    for (const [node, peer] of this.#peers) {
      if (!peer.channels.has(channel)) continue
      this.#keep(peer, channel, undefined)
      this.#options.presence.forgetChannel(node, channel)
    }
  }

  #doubt(node: string, peer: Peer, wanted: boolean): void {
    peer.stale = true
    this.#askIfStale(node, peer, wanted)
  }

  /** If this request or its answer is lost, the node's next heartbeat causes another. */
  #askIfStale(node: string, peer: Peer, wanted: boolean): void {
    // Nothing is kept, and a channel that is joined later is asked for.
    if (!wanted) peer.stale = false
    if (!peer.stale) return
    const now = performance.now()
    if (now - peer.askedAt < this.#options.interval) return
    peer.askedAt = now
    this.#options.ask(node)
  }

  /**
   * Notes the version and length of what is kept of a channel.
   * @returns false if this exceeds a limit
   */
  #keep(peer: Peer, channel: string, kept: { version: number; length: number } | undefined): boolean {
    const more = (kept?.length ?? 0) - (peer.channels.get(channel)?.length ?? 0)
    if (more > 0 && (peer.length + more > MAX_LENGTH || this.#length + more > MAX_TOTAL_LENGTH)) return false
    peer.length += more
    this.#length += more
    if (kept === undefined) peer.channels.delete(channel)
    else peer.channels.set(channel, kept)
    return true
  }
}

/** The members after changes to none. */
function membersAfter({ changes }: ChannelChanges): Iterable<PresenceMember> {
  const members = new Map<string, PresenceMember>()
  for (const { event, member } of changes) {
    if (event === 'leave') members.delete(member.client)
    else members.set(member.client, member)
  }
  return members.values()
}
