import { matchesPattern } from '../channel-pattern.js'
import { isPublicChannel } from '../channels/index.js'
import type { PresenceMember, PresenceSummary } from '../messages/index.js'

/** Who is in a channel. */
export interface ChannelPresence extends PresenceSummary {
  clients: PresenceMember[]
}

/**
 * Of a channel with more members clients are told how many there are, not who: each of n who come is told to n others.
 * So many, even of the largest size (lib/clients/presence-membership.ts), are little more than what may wait for a client by default.
 */
export const MAX_LISTED = 1000

export type PresenceWatcher = (event: 'join' | 'leave', member: PresenceMember) => void

/** A client has joined a channel, or left it. */
export interface PresenceChange {
  event: 'join' | 'leave'
  channel: string
  member: PresenceMember
}

/** The members of one node: channel → client → member. */
export type Roster = Map<string, Map<string, PresenceMember>>

export interface PresenceOptions {
  /** Which channels are presence channels; undefined: none. */
  patterns: readonly string[] | undefined
  /** Told what a watcher threw. */
  onError: (error: unknown) => void
}

/**
 * Who is in which presence channel, on all nodes, answered from memory. Each node's members are known apart from
 * those of others, so that they can go, or be replaced, together (see NodeSync).
 */
export class Presence {
  readonly #patterns: readonly string[]
  readonly #onError: (error: unknown) => void
  readonly #local: Roster = new Map()
  readonly #others = new Map<string, Roster>()
  readonly #watchers = new Map<string, Set<PresenceWatcher>>()
  #onLocalChange: ((change: PresenceChange) => void) | undefined

  constructor({ patterns, onError }: PresenceOptions) {
    this.#patterns = patterns ?? []
    this.#onError = onError
  }

  /** Whether any channel may be a presence channel. */
  get enabled(): boolean {
    return this.#patterns.length > 0
  }

  /** Whether a channel is a presence channel. */
  has(channel: string): boolean {
    return isPublicChannel(channel) && this.#patterns.some((pattern) => matchesPattern(pattern, channel))
  }

  /**
   * A client of this node is there; nothing for one that is there already, and for what is no presence channel.
   * @param member a client in several channels may be one object: it is kept, and not changed
   */
  join(channel: string, member: PresenceMember): void {
    if (!this.has(channel) || !add(this.#local, channel, member)) return
    this.#emit('join', channel, member)
    this.#onLocalChange?.({ event: 'join', channel, member })
  }

  /** A client of this node is gone; nothing for one that was not there. */
  leave(channel: string, client: string): void {
    const member = remove(this.#local, channel, client)
    if (member === undefined) return
    this.#emit('leave', channel, member)
    this.#onLocalChange?.({ event: 'leave', channel, member })
  }

  /** Who is in a channel, on all nodes. While this node does not listen: on the others, as last heard. */
  members(channel: string): PresenceMember[] {
    const members = [...(this.#local.get(channel)?.values() ?? [])]
    for (const roster of this.#others.values()) members.push(...(roster.get(channel)?.values() ?? []))
    return members
  }

  /** How many are in a channel. */
  count(channel: string): number {
    let count = this.#local.get(channel)?.size ?? 0
    for (const roster of this.#others.values()) count += roster.get(channel)?.size ?? 0
    return count
  }

  /** Whether there are more than clients are told of. */
  isLarge(channel: string): boolean {
    return this.count(channel) > MAX_LISTED
  }

  /** The same, counted. */
  summary(channel: string): ChannelPresence {
    const clients = this.members(channel)
    return { clients, count: clients.length, users: new Set(clients.map(({ user }) => user)).size }
  }

  /**
   * Calls a function for each client that joins or leaves a channel, on whichever node, in the turn of the event loop
   * in which `members` changes. What it throws is no affair of others.
   * @returns a function that ends it
   */
  watch(channel: string, watcher: PresenceWatcher): () => void {
    // Wrapped, so that the same function given twice is two watchers.
    const own: PresenceWatcher = (event, member) => watcher(event, member)
    const watchers = this.#watchers.get(channel) ?? new Set()
    this.#watchers.set(channel, watchers.add(own))
    return () => {
      watchers.delete(own)
      if (watchers.size === 0 && this.#watchers.get(channel) === watchers) this.#watchers.delete(channel)
    }
  }

  /** Has one function told of each client of this node that joins or leaves. */
  onLocalChange(handler: (change: PresenceChange) => void): void {
    this.#onLocalChange = handler
  }

  /** The members of this node. */
  *local(): Generator<[channel: string, member: PresenceMember]> {
    for (const [channel, members] of this.#local) {
      for (const member of members.values()) yield [channel, member]
    }
  }

  /** A client of another node is there, or gone. */
  apply(node: string, { event, channel, member }: PresenceChange): void {
    const roster = this.#others.get(node) ?? new Map()
    if (event === 'join') {
      this.#others.set(node, roster)
      if (add(roster, channel, member)) this.#emit('join', channel, member)
      return
    }
    const gone = remove(roster, channel, member.client)
    if (gone !== undefined) this.#emit('leave', channel, gone)
  }

  /** Replaces what is known of another node; tells of the difference. */
  replace(node: string, members: Iterable<readonly [channel: string, member: PresenceMember]>): void {
    const next: Roster = new Map()
    for (const [channel, member] of members) add(next, channel, member)
    const last: Roster = this.#others.get(node) ?? new Map()
    this.#others.set(node, next)
    // What is the same stays: of a crowd, only the difference is told.
    for (const [channel, members] of last) {
      for (const member of members.values()) {
        const still = next.get(channel)?.get(member.client)
        if (still === undefined || !isSameMember(member, still)) this.#emit('leave', channel, member)
      }
    }
    for (const [channel, members] of next) {
      for (const member of members.values()) {
        const before = last.get(channel)?.get(member.client)
        if (before === undefined || !isSameMember(before, member)) this.#emit('join', channel, member)
      }
    }
  }

  /** Another node is gone, with all its members. */
  forget(node: string): void {
    this.replace(node, [])
    this.#others.delete(node)
  }

  #emit(event: 'join' | 'leave', channel: string, member: PresenceMember): void {
    for (const watcher of this.#watchers.get(channel) ?? []) {
      try {
        watcher(event, member)
      } catch (error) {
        this.#onError(error)
      }
    }
  }
}

/** @returns false where it was there */
function add(roster: Roster, channel: string, member: PresenceMember): boolean {
  let members = roster.get(channel)
  if (members === undefined) {
    members = new Map()
    roster.set(channel, members)
  }
  if (members.has(member.client)) return false
  members.set(member.client, member)
  return true
}

/** @returns whom it has removed */
function remove(roster: Roster, channel: string, client: string): PresenceMember | undefined {
  const members = roster.get(channel)
  const member = members?.get(client)
  if (member === undefined) return undefined
  members!.delete(client)
  if (members!.size === 0) roster.delete(channel)
  return member
}

/** A client may have come back to the channel under its id as somebody else. */
export function isSameMember(one: PresenceMember, other: PresenceMember): boolean {
  return one.user === other.user && JSON.stringify(one.info) === JSON.stringify(other.info)
}
