import { channelNameProblem } from '../channel-name.js'
import { membersOf, stringIn } from '../json-text.js'
import { isInteger } from '../json-value.js'
import type { Message } from './message.js'
import { isReserved } from './server-events.js'
import { historyGap } from './server-message.js'

/** `<epoch>-<position>`, both hexadecimal and of fixed length. */
const ID = /^([0-9a-f]{8})-([0-9a-f]{16})$/

/** Makes the id of a durable message. */
export function messageId(epoch: string, position: number): string {
  return `${epoch}-${position.toString(16).padStart(16, '0')}`
}

/** Parses an id; undefined if the text is not an id. */
export function parseMessageId(id: string): { epoch: string; position: number } | undefined {
  const [, epoch, digits] = ID.exec(id) ?? []
  const position = Number.parseInt(digits ?? '', 16)
  return Number.isSafeInteger(position) ? { epoch: epoch!, position } : undefined
}

/** A reference to a row. It is sent instead of a message that is too large for a notification. */
export interface Reference {
  /** `log`: one of the two tables where a bus announces messages, whatever its channel. */
  table: 'message' | 'large' | 'log'
  position: number
  /** Undefined if the name is too long for a notification. */
  channel: string | undefined
}

const ENVELOPE = /^[ \t\r\n]*\{/

/** The result of parsing a notification. */
export type Received =
  | { message: Message /** Unix seconds. */; sentAt: number | undefined }
  | { reference: Reference }
  | {
      /** Why it is dropped. `reserved`: it could be mistaken for a server event (see isReserved). */
      refused: 'malformed' | 'reserved'
    }

/**
 * Parses the payload of a notification. Any role that may connect to the database can send one.
 * @param payload a JSON object with a string `channel`, or any other text
 * @param otherwise the channel for any other text
 */
export function readNotification(payload: string, otherwise: string): Received {
  let envelope: Record<string, unknown> | undefined
  // Checking the first character avoids an exception for most payloads that are not envelopes.
  if (ENVELOPE.test(payload)) {
    try {
      envelope = JSON.parse(payload)
    } catch {}
  }
  if (envelope === undefined) {
    if (isReserved(payload)) return { refused: 'reserved' }
    return { message: { channel: otherwise, text: payload }, sentAt: undefined }
  }
  const { channel, id } = envelope
  if (Object.hasOwn(envelope, 'pgws')) return readReference(envelope)
  if (typeof channel !== 'string') {
    return { message: { channel: otherwise, text: payload }, sentAt: undefined }
  }
  // Nobody can have joined such a channel, and the hub uses some of these names internally.
  if (channelNameProblem(channel) !== undefined) return { refused: 'malformed' }
  // Members of any value but null and undefined can be read.
  const sentAt = (envelope.claims as Record<string, unknown> | undefined | null)?.message_delivered_at
  const message: Message = { channel, text: payload }
  if (typeof id === 'string') {
    const position = parseMessageId(id)?.position
    if (position !== undefined) {
      message.position = position
      message.id = id
    }
  }
  if (envelope.encoding === 'base64') message.bytes = bytesOf(envelope.payload)
  return { message, sentAt: typeof sentAt === 'number' ? sentAt : undefined }
}

function readReference({ pgws, position, channel }: Record<string, unknown>): Received {
  if (pgws !== 'message' && pgws !== 'large') return { refused: 'reserved' }
  if (!isInteger(position) || position <= 0) return { refused: 'malformed' }
  const name = typeof channel === 'string' ? channel : undefined
  return { reference: { table: pgws, position, channel: name } }
}

/**
 * The message of a stored row; a `HistoryGap` if the row does not contain a valid message.
 * @param body the envelope, without the id
 */
export function storedMessage(epoch: string, position: number, channel: string, body: string): Message {
  const id = messageId(epoch, position)
  const members = envelopeMembers(body)
  if (members === undefined) return { ...historyGap(channel, { latest: id }), position, id }
  const text = `{"id":"${id}",${body.slice(body.indexOf('{') + 1)}`
  return { channel, text, position, id, ...binaryPart(members) }
}

/** The message of a row that is stored only because it is large; undefined if the row does not contain a valid message. */
export function largeMessage(channel: string, body: string): Message | undefined {
  const members = envelopeMembers(body)
  return members && { channel, text: body, ...binaryPart(members) }
}

function envelopeMembers(body: string): Map<string, string> | undefined {
  const members = membersOf(body)
  return members === undefined || members.size === 0 || members.has('pgws') ? undefined : members
}

function binaryPart(members: Map<string, string>): { bytes?: Buffer | undefined } {
  return stringIn(members, 'encoding') === 'base64' ? { bytes: bytesOf(stringIn(members, 'payload')) } : {}
}

function bytesOf(payload: unknown): Buffer | undefined {
  return typeof payload === 'string' ? Buffer.from(payload, 'base64') : undefined
}
