import { isUtf8 } from 'node:buffer'
import { asError, messageOf } from '../../../errors.js'
import { JsonText } from '../../../json-text.js'
import type { Message } from '../../../messages/index.js'
import { COMMAND, EMULATION_REQUEST, PUBLICATION, PUBLISHED, REPLY } from './client-schema.js'
import type { Codec } from './codec.js'
import {
  decodeMessage,
  delimitedIn,
  encodeDelimited,
  encodeMessage,
  MalformedProtobuf
} from './protobuf-fields.js'
import { DISCONNECT, DisconnectError, type Incoming, PONG } from './protocol.js'
import { publicationOf } from './publication.js'

/** A message without fields, with its length: a ping, and its answer. */
const EMPTY = Buffer.from([0])

/** The protocol in protobuf: commands and replies are messages, each with its length before it. */
export const protobuf: Codec<Buffer> = {
  *commandsIn(data) {
    try {
      for (const bytes of delimitedIn(data)) yield commandIn(bytes)
    } catch (error) {
      yield refused(error)
    }
  },
  isPong: (data) => data.equals(EMPTY),
  ping: EMPTY,
  reply(reply) {
    if (!('method' in reply)) return encodeDelimited(REPLY, reply)
    return encodeDelimited(REPLY, { id: reply.id, [reply.method]: reply.result })
  },
  publication: (message) =>
    encodeDelimited(PUBLISHED, { push: { channel: message.channel, pub: publicationFields(message) } }),
  withinReply: (message) => encodeMessage(PUBLICATION, publicationFields(message))
}

/**
 * Decodes what a client on an HTTP transport sends to `/emulation`.
 * @throws MalformedProtobuf
 */
export function readEmulationRequest(bytes: Buffer): Record<string, unknown> {
  return decodeMessage(EMULATION_REQUEST, bytes)
}

function commandIn(bytes: Buffer): Incoming {
  if (bytes.length === 0) return PONG
  try {
    return readCommand(bytes)
  } catch (error) {
    return refused(error)
  }
}

function refused(error: unknown): Error {
  if (!(error instanceof MalformedProtobuf)) return asError(error)
  return new DisconnectError(DISCONNECT.BAD_REQUEST, `not protobuf: ${messageOf(error)}`)
}

/** @throws MalformedProtobuf, DisconnectError */
function readCommand(bytes: Buffer): Incoming {
  const { id, ...rest } = decodeMessage(COMMAND, bytes)
  const [method] = Object.keys(rest)
  if (method === undefined) throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'a command needs a method')
  // Decoded values have the types of their fields in the table.
  const params = rest[method] as Record<string, unknown>
  if (method === 'send') return { id: 0, method, params }
  if (typeof id !== 'number' || id === 0) {
    throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'a command needs an id, a positive integer')
  }
  if (method === 'publish' && params.data !== undefined) params.data = dataIn(params.data as Buffer)
  return { id, method, params }
}

/** What a client publishes: JSON as its text, or bytes, which are absent if there are none. */
function dataIn(bytes: Buffer): JsonText | Buffer | undefined {
  if (bytes.length === 0) return undefined
  if (!isUtf8(bytes)) return bytes
  const text = bytes.toString()
  try {
    JSON.parse(text)
  } catch {
    return bytes
  }
  return new JsonText(text)
}

/**
 * The fields of a message as a publication. `data` is the JSON text of the payload, or the bytes of a binary message. The
 * sender's claims and the event are as in JSON.
 */
function publicationFields(message: Message): object {
  const { data, event, bytes, sender } = publicationOf(message)
  return {
    data: bytes ?? data,
    info: sender && {
      user: JSON.parse(sender.user),
      conn_info: sender.claims === undefined ? undefined : new JsonText(sender.claims)
    },
    offset: message.position,
    tags: event === undefined ? undefined : { event: JSON.parse(event) }
  }
}
