import { channelHash } from '../bus/index.js'
import { channelNameProblem } from '../channel-name.js'
import { toAscii } from '../json-text.js'
import { isCount } from '../json-value.js'
import type { PresenceMember } from '../messages/index.js'
import type { PresenceChange } from './presence.js'

/** What a node says of a channel in a line: who has joined and left. */
export interface ChannelChanges {
  channel: string
  /** The version of the channel's members on that node before these changes. 0: it had none, so these are all. */
  after: number
  /** Their version now. Equal to `after`: nothing has changed. */
  version: number
  changes: PresenceChange[]
}

/** A node asks the others for the members that they have in a channel. */
export interface ChannelQuestion {
  channel: string
  after?: undefined
}

/** A client: its number on its node, and, unless it has left, its user and info. */
type Entry = [client: number, user?: string, info?: unknown]

/**
 * The word before each line, by which a node knows the lines of its channels without parsing the others. Different channels
 * may have the same.
 */
export function wordOf(channel: string): string {
  return channelHash(channel).toString(36)
}

/** A line: the word of the channel, and what is said of it. */
export function textOf(channel: string, json: string): string {
  return `${wordOf(channel)} ${json}`
}

/** Encodes changes as JSON in ASCII. */
export function encodeLine({ channel, after, version, changes }: ChannelChanges): string {
  const entries = changes.map(({ event, member }) =>
    event === 'join' ? entryOf(member) : [numberOf(member.client)]
  )
  return toAscii(JSON.stringify([channel, after, version, ...entries]))
}

/** Encodes a question as JSON in ASCII. */
export function encodeQuestion(channel: string): string {
  return toAscii(JSON.stringify([channel]))
}

/** All members of a channel on this node, as a JSON value. */
export function lineOfMembers(
  channel: string,
  version: number,
  members: Iterable<PresenceMember>
): unknown[] {
  return [channel, 0, version, ...Array.from(members, entryOf)]
}

/**
 * Decodes what a node says of a channel. Any role that may connect to the database can send it, so its shape is checked.
 * @param node the node that says it. The clients are those of this node: it cannot speak for another.
 * @param value parsed JSON
 * @returns undefined for a value of another shape
 */
export function decodeLine(node: string, value: unknown): ChannelChanges | ChannelQuestion | undefined {
  if (!Array.isArray(value)) return undefined
  const [channel, after, version, ...entries] = value
  if (typeof channel !== 'string' || channelNameProblem(channel) !== undefined) return undefined
  if (value.length === 1) return { channel }
  if (!isCount(after) || !isCount(version) || !entries.every(isEntry)) return undefined
  return { channel, after, version, changes: entries.map((entry) => changeOf(node, channel, entry)) }
}

function entryOf({ client, user, info }: PresenceMember): Entry {
  const number = numberOf(client)
  return info === undefined ? [number, user] : [number, user, info]
}

function numberOf(client: string): number {
  return Number(client.slice(client.indexOf('-') + 1))
}

function changeOf(node: string, channel: string, [number, user, info]: Entry): PresenceChange {
  const member: PresenceMember = { client: `${node}-${number}`, user: user ?? '' }
  if (info !== undefined) member.info = info
  return { event: user === undefined ? 'leave' : 'join', channel, member }
}

function isEntry(value: unknown): value is Entry {
  if (!Array.isArray(value) || value.length < 1 || value.length > 3) return false
  const [client, user] = value
  return isCount(client) && (value.length === 1 || typeof user === 'string')
}
