import { channelNameProblem } from './channel-name.js'
import type { PresenceChange } from './presence.js'

/** A message on its way to subscribers. */
export interface Message {
  channel: string
  /** What text clients get. */
  text: string
  /** A durable message's place in the order of all of them. */
  position?: number | undefined
  /** Its id for clients: later messages compare later, as texts. */
  id?: string | undefined
  /** The bytes of a binary message. */
  bytes?: Buffer | undefined
  /** Who has joined or left, where the message tells of that. */
  presence?: PresenceChange | undefined
}

/** `<epoch>-<position>`, both hexadecimal, of fixed length. */
const ID = /^([0-9a-f]{8})-([0-9a-f]{16})$/

/** The id of a position. */
export function messageId(epoch: string, position: number): string {
  return `${epoch}-${position.toString(16).padStart(16, '0')}`
}

/** The epoch and position of an id; undefined for what is none. */
export function parseMessageId(id: string): { epoch: string; position: number } | undefined {
  const [, epoch, digits] = ID.exec(id) ?? []
  const position = Number.parseInt(digits ?? '', 16)
  return Number.isSafeInteger(position) ? { epoch: epoch!, position } : undefined
}

/** A reference to a row, in place of a message that is too large for a notification. */
export interface Reference {
  table: 'message' | 'large'
  position: number
  /** Undefined where it is too long to stand in a notification. */
  channel: string | undefined
}

const ENVELOPE = /^[ \t\r\n]*\{/

/** What a notification's payload says of itself. */
export type Received =
  | { message: Message /** Unix seconds. */; sentAt: number | undefined; reference?: undefined }
  | { reference: Reference }

/**
 * Reads a notification's payload.
 * @param payload a JSON object with a string `channel`, or anything else
 * @param otherwise the channel of anything else
 * @returns undefined where it is for a channel that cannot be: nobody is in it, and the hub has such names of its own
 */
export function readNotification(payload: string, otherwise: string): Received | undefined {
  let envelope: Record<string, unknown> | undefined
  // Most payloads that are no envelope are told from their first character, with no exception thrown.
  if (ENVELOPE.test(payload)) {
    try {
      envelope = JSON.parse(payload)
    } catch {}
  }
  const { channel, pgws, position, id } = envelope ?? {}
  if ((pgws === 'message' || pgws === 'large') && typeof position === 'number') {
    const name = typeof channel === 'string' ? channel : undefined
    return { reference: { table: pgws, position, channel: name } }
  }
  if (envelope === undefined || typeof channel !== 'string') {
    return { message: { channel: otherwise, text: payload }, sentAt: undefined }
  }
  if (channelNameProblem(channel) !== undefined) return undefined
  const place = typeof id === 'string' ? parseMessageId(id)?.position : undefined
  const sentAt = (envelope.claims as Record<string, unknown> | undefined | null)?.message_delivered_at
  return {
    message: {
      channel,
      text: payload,
      ...(place !== undefined && { position: place, id: id as string }),
      ...(envelope.encoding === 'base64' && { bytes: bytesOf(envelope.payload) })
    },
    sentAt: typeof sentAt === 'number' ? sentAt : undefined
  }
}

/**
 * The message of a stored row.
 * @param body its envelope, without id
 */
export function storedMessage(epoch: string, position: number, channel: string, body: string): Message {
  const id = messageId(epoch, position)
  const text = `{"id":"${id}",${body.slice(1)}`
  return { channel, text, position, id, ...binaryPart(body) }
}

/** The message of a row that is kept only since it is large. */
export function largeMessage(channel: string, body: string): Message {
  return { channel, text: body, ...binaryPart(body) }
}

function binaryPart(body: string): { bytes?: Buffer | undefined } {
  if (!body.endsWith('"encoding":"base64"}')) return {}
  return { bytes: bytesOf((JSON.parse(body) as { payload: unknown }).payload) }
}

function bytesOf(payload: unknown): Buffer | undefined {
  return typeof payload === 'string' ? Buffer.from(payload, 'base64') : undefined
}
