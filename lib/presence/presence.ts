import { matchesPattern } from '../channel-pattern.js'
import { isPublicChannel } from '../channels/index.js'
import type { PresenceMember, PresenceSummary } from '../messages/index.js'

/** The members of a channel. */
export interface ChannelPresence extends PresenceSummary {
  clients: PresenceMember[]
}

/**
 * In a channel with more members, clients receive only their number, because each of n new members is an event for n
 * others. A list of this many members, even of the largest size (lib/clients/presence-membership.ts), is little more than
 * what may wait for a client by default.
 */
export const MAX_LISTED = 1000

export type PresenceWatcher = (event: 'join' | 'leave', member: PresenceMember) => void

/** A client joined or left a channel. */
export interface PresenceChange {
  event: 'join' | 'leave'
  channel: string
  member: PresenceMember
}

/** The members of one node: channel → client → member. */
export type Roster = Map<string, Map<string, PresenceMember>>

const NONE: ReadonlyMap<string, PresenceMember> = new Map()

export interface PresenceOptions {
  /** Patterns of the presence channels; undefined: there are none. */
  patterns: readonly string[] | undefined
  /** Is called with what a watcher throws. */
  onError: (error: unknown) => void
}

/**
 * The members of presence channels, on all nodes, in memory. The members of each node are stored separately, so that
 * they can be removed or replaced together (see NodeSync).
 */
export class Presence {
  readonly #patterns: readonly string[]
  readonly #onError: (error: unknown) => void
  readonly #local: Roster = new Map()
  readonly #others = new Map<string, Roster>()
  readonly #watchers = new Map<string, Set<PresenceWatcher>>()
  readonly #onLocalChange: ((change: PresenceChange) => void)[] = []

  constructor({ patterns, onError }: PresenceOptions) {
    this.#patterns = patterns ?? []
    this.#onError = onError
  }

  /** Whether there are presence channels at all. */
  get enabled(): boolean {
    return this.#patterns.length > 0
  }

  /** Whether a channel is a presence channel. */
  has(channel: string): boolean {
    return isPublicChannel(channel) && this.#patterns.some((pattern) => matchesPattern(pattern, channel))
  }

  /**
   * Adds a client of this node. Does nothing if it is a member already, or if the channel is not a presence channel.
   * @param member is stored and never changed, so one object may serve several channels
   */
  join(channel: string, member: PresenceMember): void {
    if (!this.has(channel) || !add(this.#local, channel, member)) return
    this.#emit('join', channel, member)
    this.#changed({ event: 'join', channel, member })
  }

  /** Removes a client of this node. Does nothing if it is not a member. */
  leave(channel: string, client: string): void {
    const member = remove(this.#local, channel, client)
    if (member === undefined) return
    this.#emit('leave', channel, member)
    this.#changed({ event: 'leave', channel, member })
  }

  /** The members of a channel on this node, by client. */
  localMembers(channel: string): ReadonlyMap<string, PresenceMember> {
    return this.#local.get(channel) ?? NONE
  }

  /** Whether another node has members in a channel, as far as this node knows. */
  hasMembers(node: string, channel: string): boolean {
    return this.#others.get(node)?.has(channel) === true
  }

  /**
   * The members of a channel, on all nodes as far as this node knows: see ChannelSync. While this node does not listen, those
   * of other nodes may be out of date.
   */
  members(channel: string): PresenceMember[] {
    const members = [...(this.#local.get(channel)?.values() ?? [])]
    for (const roster of this.#others.values()) members.push(...(roster.get(channel)?.values() ?? []))
    return members
  }

  /** The number of members of a channel. */
  count(channel: string): number {
    let count = this.#local.get(channel)?.size ?? 0
    for (const roster of this.#others.values()) count += roster.get(channel)?.size ?? 0
    return count
  }

  /** Whether a channel has more members than are listed to clients. */
  isLarge(channel: string): boolean {
    return this.count(channel) > MAX_LISTED
  }

  /** The members of a channel, with the number of clients and of users. */
  summary(channel: string): ChannelPresence {
    return summaryOf(this.members(channel))
  }

  /**
   * Calls a function for each client that joins or leaves a channel, on any node, in the turn of the event loop in which
   * `members` changes. What it throws goes to `onError`.
   * @returns a function that ends it
   */
  watch(channel: string, watcher: PresenceWatcher): () => void {
    // Wrapped, because the same function may be passed twice.
    const own: PresenceWatcher = (event, member) => watcher(event, member)
    const watchers = this.#watchers.get(channel) ?? new Set()
    this.#watchers.set(channel, watchers.add(own))
    return () => {
      watchers.delete(own)
      if (watchers.size === 0 && this.#watchers.get(channel) === watchers) this.#watchers.delete(channel)
    }
  }

  /** Calls a function for each client of this node that joins or leaves. */
  onLocalChange(handler: (change: PresenceChange) => void): void {
    this.#onLocalChange.push(handler)
  }

  /** The members of this node. */
  *local(): Generator<[channel: string, member: PresenceMember]> {
    for (const [channel, members] of this.#local) {
      for (const member of members.values()) yield [channel, member]
    }
  }

  /** Applies a change of another node. */
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

  /** Replaces the members of another node. Watchers are called for the differences only. */
  replace(node: string, members: Iterable<readonly [channel: string, member: PresenceMember]>): void {
    const next: Roster = new Map()
    for (const [channel, member] of members) add(next, channel, member)
    const last: Roster = this.#others.get(node) ?? new Map()
    this.#others.set(node, next)
    for (const [channel, members] of last) this.#emitDifference(channel, members, next.get(channel) ?? NONE)
    for (const [channel, members] of next) {
      if (!last.has(channel)) this.#emitDifference(channel, NONE, members)
    }
  }

  /** Replaces the members of another node in a channel. Watchers are called for the differences only. */
  replaceChannel(node: string, channel: string, members: Iterable<PresenceMember>): void {
    const roster = this.#others.get(node) ?? new Map()
    this.#others.set(node, roster)
    const last: Map<string, PresenceMember> = roster.get(channel) ?? new Map()
    const next = new Map(Array.from(members, (member) => [member.client, member]))
    if (next.size > 0) roster.set(channel, next)
    else roster.delete(channel)
    this.#emitDifference(channel, last, next)
  }

  /** Forgets the members of another node in a channel, without calling watchers. */
  forgetChannel(node: string, channel: string): void {
    this.#others.get(node)?.delete(channel)
  }

  /** Removes another node with all its members. */
  forget(node: string): void {
    this.replace(node, [])
    this.#others.delete(node)
  }

  #changed(change: PresenceChange): void {
    for (const handler of this.#onLocalChange) handler(change)
  }

  /** A member that is in both does not cause an event. */
  #emitDifference(
    channel: string,
    last: ReadonlyMap<string, PresenceMember>,
    next: ReadonlyMap<string, PresenceMember>
  ): void {
    if (!this.#watchers.has(channel)) return
    for (const member of last.values()) {
      const current = next.get(member.client)
      if (current === undefined || !isSameMember(member, current)) this.#emit('leave', channel, member)
    }
    for (const member of next.values()) {
      const before = last.get(member.client)
      if (before === undefined || !isSameMember(before, member)) this.#emit('join', channel, member)
    }
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

/** The members of a channel, with the number of clients and of users. */
export function summaryOf(clients: PresenceMember[]): ChannelPresence {
  return { clients, count: clients.length, users: new Set(clients.map(({ user }) => user)).size }
}

/** @returns false if it is a member already */
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

/** @returns the removed member; undefined if there is none */
function remove(roster: Roster, channel: string, client: string): PresenceMember | undefined {
  const members = roster.get(channel)
  const member = members?.get(client)
  if (member === undefined) return undefined
  members!.delete(client)
  if (members!.size === 0) roster.delete(channel)
  return member
}

/** Whether two members of the same id are the same. A client may leave and return with another user or info. */
export function isSameMember(one: PresenceMember, other: PresenceMember): boolean {
  return one.user === other.user && JSON.stringify(one.info) === JSON.stringify(other.info)
}
