import { channelNameProblem } from '../channel-name.js'
import { isCount, isObject } from '../json-value.js'
import type { PresenceMember } from '../messages/index.js'
import type { PresenceChange } from './presence.js'

/** A client in a channel: the channel, the number behind the node's id, and, unless it has left, what is known of it. */
type Entry = [channel: string, client: number, user?: string, info?: unknown]

/** What a node tells of its members. */
export type PresenceMessage =
  | {
      /** How many changes were told before these. */
      after: number
      changes: PresenceChange[]
    }
  | {
      /** All of them, as they are after so many changes. */
      version: number
      members: (readonly [channel: string, member: PresenceMember])[]
    }

/** The JSON value of some changes. */
export function encodeChanges(after: number, changes: readonly PresenceChange[]): object {
  return {
    after,
    changes: changes.map(({ event, channel, member }) =>
      event === 'join' ? entryOf(channel, member) : entryOf(channel, member).slice(0, 2)
    )
  }
}

/** The JSON value of all members of a node. */
export function encodeState(
  version: number,
  members: Iterable<readonly [channel: string, member: PresenceMember]>
): object {
  return { version, members: [...members].map(([channel, member]) => entryOf(channel, member)) }
}

/**
 * Reads what a node has told; undefined for what has another shape. Anyone who has SQL may notify the channel.
 * @param node whose clients they are: it can tell of no other's
 */
export function decodePresence(node: string, text: string): PresenceMessage | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (!isObject(value)) return undefined
  const { after, changes, version, members } = value
  if (isCount(after) && isEntries(changes)) {
    return { after, changes: changes.map((entry) => changeOf(node, entry)) }
  }
  if (isCount(version) && isEntries(members) && members.every(([, , user]) => user !== undefined)) {
    return { version, members: members.map((entry) => [entry[0], changeOf(node, entry).member] as const) }
  }
  return undefined
}

function entryOf(channel: string, { client, user, info }: PresenceMember): Entry {
  const number = Number(client.slice(client.indexOf('-') + 1))
  return info === undefined ? [channel, number, user] : [channel, number, user, info]
}

function changeOf(node: string, [channel, number, user, info]: Entry): PresenceChange {
  const member: PresenceMember = { client: `${node}-${number}`, user: user ?? '' }
  if (info !== undefined) member.info = info
  return { event: user === undefined ? 'leave' : 'join', channel, member }
}

function isEntries(value: unknown): value is Entry[] {
  return Array.isArray(value) && value.every(isEntry)
}

function isEntry(value: unknown): value is Entry {
  if (!Array.isArray(value) || value.length < 2 || value.length > 4) return false
  const [channel, client, user] = value
  if (typeof channel !== 'string' || channelNameProblem(channel) !== undefined) return false
  return isCount(client) && (value.length === 2 || typeof user === 'string')
}
