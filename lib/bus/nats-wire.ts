import { hash } from 'node:crypto'
import type { Announcement, Beat } from './bus.js'

/**
 * The longest name of a channel, in bytes, that is part of a subject as it is. A server takes lines of up to 4,096 bytes
 * (https://docs.nats.io/running-a-nats-service/configuration, max_control_line).
 */
const MAX_SUBJECT_BYTES = 1000

/** Distinguishes a database from all others. */
export interface DatabaseIdentity {
  /** Only servers can read it, so nobody can guess the prefix. */
  secret: string
  epoch: string
  /** The `oid` of the database. Others that were made from the same template have the same secret and epoch. */
  oid: string
}

/** What all subjects of a database begin with by default. Two databases never share them, not even a copy and its original. */
export function prefixOf({ secret, epoch, oid }: DatabaseIdentity, listenChannel: string): string {
  return `pgws.${hash('sha256', `${secret} ${epoch} ${oid} ${listenChannel}`).slice(0, 16)}`
}

/** The subjects of a bus. All begin with its prefix, so that one permission, `<prefix>.>`, is enough. */
export class Subjects {
  readonly prefix: string
  /** Beats of the sequencer. */
  readonly beats: string
  /** What is sent to all nodes. */
  readonly all: string
  /** Nobody receives what is published here, because it is the subject of no channel. */
  readonly nobody: string

  constructor(prefix: string) {
    this.prefix = prefix
    this.beats = `${prefix}.b`
    this.all = `${prefix}.n.all`
    this.nobody = `${prefix}.m.-`
  }

  /** What is sent to one node. */
  node(id: string): string {
    return `${this.prefix}.n.${id}`
  }

  /** The messages of a channel. Names may have blanks, dots and wildcards, which subjects may not. */
  channel(channel: string): string {
    return `${this.prefix}.m.${tokenOf(channel)}`
  }
}

function tokenOf(channel: string): string {
  return isHashed(channel)
    ? hash('sha256', channel, 'base64url')
    : Buffer.from(channel, 'utf8').toString('base64url')
}

function isHashed(channel: string): boolean {
  // A UTF-16 unit takes one to three bytes of UTF-8, so few names must be encoded to measure them.
  return channel.length * 3 > MAX_SUBJECT_BYTES && Buffer.byteLength(channel) > MAX_SUBJECT_BYTES
}

/** What a node has received. */
export type Received =
  | { kind: 'announced'; announcement: Announcement }
  | { kind: 'beat'; beat: Beat }
  | { kind: 'text'; text: string }

// The first character says what follows:
//   m<position> <previous> <beat> <text>   a message
//   r<position> <previous> <beat>          a message that is read from the database
//   b<number> <from> <to>[ <hash>:<offset>]…  a beat; hashes and offsets (from `from`) in base 36
//   t<text>                                what a node sends
//   #<length> <channel><one of these>      on the subject of a hashed name: the name, and its length in UTF-16 units

/**
 * @param maxBytes what a server takes at most. A message above that is announced without its text.
 */
export function encodeAnnouncement(announcement: Announcement, maxBytes: number): string {
  const { channel, position, previous, beat, text } = announcement
  if (text !== undefined) {
    const whole = named(channel, `m${position} ${previous} ${beat} ${text}`)
    if (hasAtMost(maxBytes, whole)) return whole
  }
  return named(channel, `r${position} ${previous} ${beat}`)
}

export function encodeText(text: string, channel: string | undefined): string {
  return channel === undefined ? `t${text}` : named(channel, `t${text}`)
}

/**
 * A beat, as several that follow each other if one would be too large: together they say the same.
 * @param maxBytes what a server takes at most
 */
export function encodeBeat({ number, from, to, channels }: Beat, maxBytes: number): string[] {
  // No entry takes more bytes: a blank, 7 digits, a colon, 11 digits.
  const entries = Math.max(1, Math.floor((maxBytes - 55) / 20))
  if (channels.length <= entries) return [beatText({ number, from, to, channels })]
  const sorted = [...channels].sort(([, one], [, other]) => one - other)
  const texts: string[] = []
  let begin = from
  for (let index = 0; index < sorted.length; index += entries) {
    const part = sorted.slice(index, index + entries)
    const isLast = index + entries >= sorted.length
    const end = isLast ? to : part.at(-1)![1]
    texts.push(beatText({ number, from: begin, to: end, channels: part }))
    begin = end
  }
  return texts
}

function beatText({ number, from, to, channels }: Beat): string {
  const entries = channels.map(
    ([hash, position]) => ` ${hash.toString(36)}:${(position - from).toString(36)}`
  )
  return `b${number} ${from} ${to}${entries.join('')}`
}

function named(channel: string, body: string): string {
  return isHashed(channel) ? `#${channel.length} ${channel}${body}` : body
}

/** Whether a text has at most so many bytes of UTF-8. */
function hasAtMost(maxBytes: number, text: string): boolean {
  return text.length * 3 <= maxBytes || Buffer.byteLength(text) <= maxBytes
}

/**
 * Reads what arrived.
 * @param channel of the subject; undefined on the subjects of nodes and beats
 * @returns undefined for what a node does not understand: an empty message, what a later release may send, or a message of
 *   a channel with the same hash
 */
export function decode(bytes: Uint8Array, channel: string | undefined): Received | undefined {
  const whole = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
  const text = channel !== undefined && isHashed(channel) ? withoutName(whole, channel) : whole
  switch (text?.[0]) {
    case 'm':
    case 'r':
      return channel === undefined ? undefined : readAnnouncement(text, channel)
    case 'b':
      return channel === undefined ? readBeat(text) : undefined
    case 't':
      return { kind: 'text', text: text.slice(1) }
    default:
      return undefined
  }
}

function withoutName(text: string, channel: string): string | undefined {
  const start = `#${channel.length} ${channel}`
  return text.startsWith(start) ? text.slice(start.length) : undefined
}

const ANNOUNCEMENT = /^(?:r(\d+) (\d+) (\d+)$|m(\d+) (\d+) (\d+) )/

function readAnnouncement(text: string, channel: string): Received | undefined {
  const found = ANNOUNCEMENT.exec(text)
  if (found === null) return undefined
  const hasText = text[0] === 'm'
  const [position, previous, beat] = found.slice(hasText ? 4 : 1).map(readPosition)
  if (position === undefined || previous === undefined || beat === undefined) return undefined
  if (previous >= position) return undefined
  const body = hasText ? text.slice(found[0].length) : undefined
  return { kind: 'announced', announcement: { channel, position, previous, beat, text: body } }
}

function readBeat(text: string): Received | undefined {
  const [first, start, end, ...entries] = text.slice(1).split(' ')
  const number = readPosition(first)
  const from = readPosition(start)
  const to = readPosition(end)
  if (number === undefined || from === undefined || to === undefined || to < from) return undefined
  const channels: [number, number][] = []
  for (const entry of entries) {
    const [, hash, offset] = /^([0-9a-z]{1,7}):([0-9a-z]{1,11})$/.exec(entry) ?? []
    if (hash === undefined) return undefined
    const position = from + Number.parseInt(offset!, 36)
    if (position > to) return undefined
    channels.push([Number.parseInt(hash, 36), position])
  }
  return { kind: 'beat', beat: { number, from, to, channels } }
}

function readPosition(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text))
    ? Number(text)
    : undefined
}
