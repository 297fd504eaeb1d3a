import { channelNameProblem } from '../channel-name.js'
import { isCount, isObject } from '../json-value.js'
import type { PresenceMember } from '../messages/index.js'
import type { PresenceChange } from './presence.js'

/** A client in a channel: the channel, the client's number on its node, and, unless it has left, its user and info. */
type Entry = [channel: string, client: number, user?: string, info?: unknown]

/** A node's message about its members: changes, or its full state. */
export type PresenceMessage =
  | {
      /** The number of changes that were sent before these. */
      after: number
      changes: PresenceChange[]
    }
  | {
      /** The number of changes that these members include. */
      version: number
      members: (readonly [channel: string, member: PresenceMember])[]
    }

/** Encodes changes as a JSON value. */
export function encodeChanges(after: number, changes: readonly PresenceChange[]): object {
  return {
    after,
    changes: changes.map(({ event, channel, member }) =>
      event === 'join' ? entryOf(channel, member) : entryOf(channel, member).slice(0, 2)
    )
  }
}

/** Encodes the full state of a node as a JSON value. */
export function encodeState(
  version: number,
  members: Iterable<readonly [channel: string, member: PresenceMember]>
): object {
  return { version, members: [...members].map(([channel, member]) => entryOf(channel, member)) }
}

/**
 * Decodes a node's message. Any role that may connect to the database can send one, so its shape is checked.
 * @param node the node that sent it. The clients are those of this node: it cannot speak for another.
 * @returns undefined for a text of another shape
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
