import { createHash } from 'node:crypto'
import { decode, encode } from '@msgpack/msgpack'
import { asError, errors, messageOf } from '../../errors.js'
import { isObject } from '../../json-value.js'
import { CHANNEL_NAME_LIMIT, databaseChannelProblem, NOTIFY_PAYLOAD_LIMIT } from '../../postgres/index.js'
import type { Notification } from '../../publishing/batch-queue.js'

/** The types of messages between nodes: MessageType of socket.io-adapter, on which the emitter does not depend. */
export const types = {
  INITIAL_HEARTBEAT: 1,
  HEARTBEAT: 2,
  BROADCAST: 3,
  SOCKETS_JOIN: 4,
  SOCKETS_LEAVE: 5,
  DISCONNECT_SOCKETS: 6,
  FETCH_SOCKETS_RESPONSE: 8,
  SERVER_SIDE_EMIT: 9,
  SERVER_SIDE_EMIT_RESPONSE: 10,
  BROADCAST_ACK: 12
}

/** The types that carry the application's values, which may be binary. */
const CARRIERS = new Set([
  types.BROADCAST,
  types.FETCH_SOCKETS_RESPONSE,
  types.SERVER_SIDE_EMIT,
  types.SERVER_SIDE_EMIT_RESPONSE,
  types.BROADCAST_ACK
])

/** The packet type EVENT of Socket.IO's protocol. */
export const EVENT = 2

/** The data of a message for clients. */
export interface BroadcastData {
  packet: { type: number; id?: number; data: unknown[] }
  opts: { rooms: string[]; except: string[]; flags?: { volatile?: boolean } }
  requestId?: string
}

/** The event names that Socket.IO reserves for itself. */
export const RESERVED_EVENTS = new Set([
  'connect',
  'connect_error',
  'disconnect',
  'disconnecting',
  'newListener',
  'removeListener'
])

/**
 * Checks a packet for clients. A client closes its connection when it gets anything but a valid event (`isPacketValid` of
 * socket.io-parser), and any role that may run SQL can send such a packet.
 * @throws TypeError
 */
export function checkEvent(packet: BroadcastData['packet']): void {
  const { type, id, data } = packet
  if (type !== EVENT || !Array.isArray(data)) throw new TypeError('a packet for clients is not an event')
  const name: unknown = data[0]
  if (typeof name !== 'number' && (typeof name !== 'string' || RESERVED_EVENTS.has(name))) {
    throw new TypeError('an event for clients has no name')
  }
  if (id !== undefined && !(Number.isSafeInteger(id) && id >= 0)) {
    throw new TypeError('the acknowledgement id of an event for clients is invalid')
  }
}

/** A message between nodes. */
export interface Message {
  uid: string
  nsp: string
  type: number
  data?: unknown
}

/** Whether a message is for clients. Its data is not checked. */
export function isBroadcast(message: Message): message is Message & { data: BroadcastData } {
  return message.type === types.BROADCAST
}

/**
 * A message to publish. Its payload has a unique number, because PostgreSQL delivers equal notifications of a transaction only
 * once (sql-notify.html). So it does not have the `databaseChannel` of notifications that may be equal.
 */
export interface Packet extends Notification {
  /** The database channel of its namespace: see channelOf. */
  namespaceChannel: string
  /** For a packet whose payload is stored as an attachment (in base64): the beginning of the notification, before the row's id. */
  header?: string | undefined
  /** For a packet that is kept for nodes and clients that miss it. */
  kept?: Kept | undefined
}

/** What is stored of a kept packet, in addition to its payload. */
export interface Kept {
  nsp: string
  origin: string
  seq: number
  /** Undefined for a packet that is not for clients. */
  rooms: readonly string[] | undefined
  except: readonly string[] | undefined
}

/** The maximum length of `{"position":…,` in a notification. */
const POSITION_BYTES = 32

/**
 * The database channel of a namespace. A name that PostgreSQL does not allow (too long, or with NUL) is replaced by its
 * hash. With @socket.io/postgres-adapter, packets of such a namespace never reach another node.
 */
export function channelOf(prefix: string, nsp: string): string {
  const channel = `${prefix}#${nsp}`
  if (databaseChannelProblem(channel) === undefined) return channel
  return `socket.io#~${createHash('sha256').update(channel).digest('base64url')}`.slice(0, CHANNEL_NAME_LIMIT)
}

/**
 * Makes a packet of a message.
 * @param namespaceChannel see channelOf
 * @param n a unique number
 * @param threshold the size from which a packet is stored in a row, in bytes
 * @param origin the sender of a packet that is kept for nodes and clients that miss it; undefined: it is not kept
 * @throws TypeError for data that cannot be serialized, such as circular structures
 */
export function packetOf(
  namespaceChannel: string,
  message: Message,
  n: number,
  threshold: number,
  origin?: string | undefined
): Packet {
  const { uid, nsp, type, data } = message
  const kept = origin === undefined ? undefined : keptOf(message, origin, n)
  const base = { channel: nsp, namespaceChannel, ...(kept && { kept }) }
  const maxBytes = Math.min(threshold, NOTIFY_PAYLOAD_LIMIT - (kept ? POSITION_BYTES : 0))
  const header = () => `${JSON.stringify({ uid, nsp, type, n }).slice(0, -1)},"attachmentId":`
  if (CARRIERS.has(type) && hasBinary(data)) {
    return { ...base, header: header(), payload: base64({ uid, nsp, type, data: plain(data), n }) }
  }
  const text = JSON.stringify({ uid, nsp, type, data, n })
  if (Buffer.byteLength(text) < maxBytes) return { ...base, payload: text }
  // It is converted to JSON and back, so that a value arrives the same in a small packet and in a large one.
  return { ...base, header: header(), payload: base64(JSON.parse(text)) }
}

/** Reads the message of an attachment. @throws Error, RangeError if it holds none */
export function readAttachment(payload: Uint8Array): Message {
  return checkMessage(decode(payload))
}

/** Checks that a value is a message of a node. Its data is not checked. @throws TypeError */
export function checkMessage(value: unknown): Message {
  const { uid, type } = isObject(value) ? value : {}
  const named = uid === undefined || typeof uid === 'string'
  if (!named || typeof type !== 'number') throw new TypeError('it is not a message')
  // `nsp` may be missing: the inbox adds it.
  return value as Message
}

/** Returns what a function returns, or the error that it throws. */
export function attempt<Value>(read: () => Value): Value | Error {
  try {
    return read()
  } catch (error) {
    return asError(error)
  }
}

/** What to keep of a message that nodes and clients must not miss; undefined for requests, responses and volatile packets. */
function keptOf({ nsp, type, data }: Message, origin: string, seq: number): Kept | undefined {
  const common = { nsp, origin, seq }
  switch (type) {
    case types.BROADCAST: {
      // This node's adapter or emitter has made the message, so its data fits its type.
      const { packet, opts, requestId } = data as BroadcastData
      if (requestId !== undefined || !isRecoverable(packet, opts.flags)) return undefined
      return { ...common, rooms: opts.rooms, except: opts.except }
    }
    case types.SERVER_SIDE_EMIT:
      // As above.
      if ((data as { requestId?: string }).requestId !== undefined) return undefined
      return { ...common, rooms: undefined, except: undefined }
    case types.SOCKETS_JOIN:
    case types.SOCKETS_LEAVE:
    case types.DISCONNECT_SOCKETS:
      return { ...common, rooms: undefined, except: undefined }
    default:
      return undefined
  }
}

/** Whether connection state recovery covers a packet: an event without an acknowledgement that is not volatile. */
export function isRecoverable(
  packet: { type: number; id?: number | undefined },
  flags: { volatile?: boolean | undefined } | undefined
): boolean {
  return packet.type === EVENT && packet.id === undefined && flags?.volatile === undefined
}

/** Escapes NUL and lone surrogates as in JSON, because PostgreSQL's text cannot contain them. */
export function textOf(name: string): string {
  return JSON.stringify(String(name)).slice(1, -1)
}

function base64(value: unknown): string {
  try {
    const { buffer, byteOffset, byteLength } = encode(value)
    return Buffer.from(buffer, byteOffset, byteLength).toString('base64')
  } catch (error) {
    throw new errors.BadMessage(messageOf(error))
  }
}

function isBinary(value: object): boolean {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer
}

/** The value that JSON.stringify writes for an object. */
function jsonOf(value: object): unknown {
  // Any object may have such a method.
  const { toJSON } = value as { toJSON?: unknown }
  return typeof toJSON === 'function' ? toJSON.call(value) : value
}

/** Whether a value contains binary data at any depth. */
export function hasBinary(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (isBinary(value)) return true
  if (Array.isArray(value)) return value.some(hasBinary)
  const json = jsonOf(value)
  return json === value ? Object.values(value).some(hasBinary) : hasBinary(json)
}

/** Converts a value as JSON would, but leaves binary data unchanged. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') throw new TypeError('a BigInt cannot be sent')
  if (typeof value === 'function' || typeof value === 'symbol') return undefined
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof ArrayBuffer) return new Uint8Array(value)
  if (isBinary(value)) return value
  if (Array.isArray(value)) return value.map(plain)
  const json = jsonOf(value)
  if (json !== value) return plain(json)
  return Object.fromEntries(
    Object.entries(value)
      .map(([name, member]) => [name, plain(member)] as const)
      .filter(([, member]) => member !== undefined)
  )
}

/** Converts a value to bytes that can be stored (in base64), and back. */
export const stored = {
  write: (value: unknown): string => base64(plain(value)),
  read: (bytes: Uint8Array): unknown => decode(bytes)
}
