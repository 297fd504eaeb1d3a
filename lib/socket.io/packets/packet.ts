import { createHash } from 'node:crypto'
import { decode, encode } from '@msgpack/msgpack'
import { asError, errors, messageOf } from '../../errors.js'
import { CHANNEL_NAME_LIMIT, databaseChannelProblem, NOTIFY_PAYLOAD_LIMIT } from '../../postgres/index.js'
import type { Notification } from '../../publishing/batch-queue.js'

/** The types of messages between nodes (MessageType of socket.io-adapter, which the emitter does without). */
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

/** The types that carry values of the application, which may be binary. */
const CARRIERS = new Set([
  types.BROADCAST,
  types.FETCH_SOCKETS_RESPONSE,
  types.SERVER_SIDE_EMIT,
  types.SERVER_SIDE_EMIT_RESPONSE,
  types.BROADCAST_ACK
])

/** A packet's type EVENT in Socket.IO's protocol. */
export const EVENT = 2

export interface BroadcastData {
  packet: { type: number; id?: number; data: unknown[] }
  opts: { rooms: string[]; except: string[]; flags?: { volatile?: boolean } }
  requestId?: string
}

/** The names of events that Socket.IO keeps for itself. */
export const RESERVED_EVENTS = new Set([
  'connect',
  'connect_error',
  'disconnect',
  'disconnecting',
  'newListener',
  'removeListener'
])

/**
 * Checks a packet for clients: anything but an event (socket.io-parser's `isPacketValid`) ends the connection of each that
 * gets it, and whoever has SQL may send some.
 * @throws TypeError
 */
export function checkEvent(packet: BroadcastData['packet']): void {
  const { type, id, data } = packet
  if (type !== EVENT || !Array.isArray(data)) throw new TypeError('a packet for clients is no event')
  const name: unknown = data[0]
  if (typeof name !== 'number' && (typeof name !== 'string' || RESERVED_EVENTS.has(name))) {
    throw new TypeError('an event for clients has no name')
  }
  if (id !== undefined && !(Number.isSafeInteger(id) && id >= 0)) {
    throw new TypeError('an event for clients has no number')
  }
}

/** What nodes send each other. */
export interface Message {
  uid: string
  nsp: string
  type: number
  data?: unknown
}

/** Whether a message is for clients. What it holds is not checked. */
export function isBroadcast(message: Message): message is Message & { data: BroadcastData } {
  return message.type === types.BROADCAST
}

/** A message as it is published. */
export interface Packet extends Notification {
  /** Where the payload goes into a row, in base64: the notification up to the row's id. */
  header?: string | undefined
  /** What is stored for those who miss it. */
  kept?: Kept | undefined
}

export interface Kept {
  nsp: string
  origin: string
  seq: number
  /** Undefined where it is nothing for clients. */
  rooms: readonly string[] | undefined
  except: readonly string[] | undefined
}

/** What `{"position":…,` may add to a notification. */
const POSITION_BYTES = 32

/**
 * The database channel of a namespace. A name that no PostgreSQL can have (too long, or with NUL) is replaced by its hash;
 * with the original such namespaces never reached another node.
 */
export function channelOf(prefix: string, nsp: string): string {
  const channel = `${prefix}#${nsp}`
  if (databaseChannelProblem(channel) === undefined) return channel
  return `socket.io#~${createHash('sha256').update(channel).digest('base64url')}`.slice(0, CHANNEL_NAME_LIMIT)
}

/**
 * Makes a packet of a message.
 * @param n a number of its own, so that equal messages differ: PostgreSQL folds equal notifications of a transaction
 *   (sql-notify.html)
 * @param threshold packets of so many bytes go into a row
 * @param origin makes the packet one that is kept for those who miss it
 * @throws TypeError for what cannot be written, such as circular structures
 */
export function packetOf(
  prefix: string,
  message: Message,
  n: number,
  threshold: number,
  origin?: string | undefined
): Packet {
  const { uid, nsp, type, data } = message
  const kept = origin === undefined ? undefined : keptOf(message, origin, n)
  const base = { channel: nsp, databaseChannel: channelOf(prefix, nsp), ...(kept && { kept }) }
  const most = Math.min(threshold, NOTIFY_PAYLOAD_LIMIT - (kept ? POSITION_BYTES : 0))
  const header = () => `${JSON.stringify({ uid, nsp, type, n }).slice(0, -1)},"attachmentId":`
  if (CARRIERS.has(type) && hasBinary(data)) {
    return { ...base, header: header(), payload: base64({ uid, nsp, type, data: plain(data), n }) }
  }
  const text = JSON.stringify({ uid, nsp, type, data, n })
  if (Buffer.byteLength(text) < most) return { ...base, payload: text }
  // By way of JSON, so that a value looks the same whether its packet is large or not.
  return { ...base, header: header(), payload: base64(JSON.parse(text)) }
}

/** Reads a row's payload. @throws Error, RangeError for what is none */
export function readAttachment(payload: Uint8Array): Message {
  return checkMessage(decode(payload))
}

/** @throws TypeError for what is no message of a node */
export function checkMessage(value: unknown): Message {
  if (typeof value !== 'object' || value === null) throw new TypeError('it is no message')
  const { uid, type } = value as Record<string, unknown>
  const named = uid === undefined || typeof uid === 'string'
  if (!named || typeof type !== 'number') throw new TypeError('it is no message')
  return value as Message
}

/** What is read, or what is wrong with it. */
export function attempt<Value>(read: () => Value): Value | Error {
  try {
    return read()
  } catch (error) {
    return asError(error)
  }
}

/**
 * What nodes and clients must not miss; undefined for requests, responses, and what may be lost.
 */
function keptOf({ nsp, type, data }: Message, origin: string, seq: number): Kept | undefined {
  const common = { nsp, origin, seq }
  switch (type) {
    case types.BROADCAST: {
      const { packet, opts, requestId } = data as BroadcastData
      if (requestId !== undefined || !isRecoverable(packet, opts.flags)) return undefined
      return { ...common, rooms: opts.rooms, except: opts.except }
    }
    case types.SERVER_SIDE_EMIT:
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

/** Whether a packet counts for connection state recovery: an event, with no acknowledgement, not volatile. */
export function isRecoverable(
  packet: { type: number; id?: number | undefined },
  flags: { volatile?: boolean | undefined } | undefined
): boolean {
  return packet.type === EVENT && packet.id === undefined && flags?.volatile === undefined
}

/** A name as PostgreSQL's text can hold it: NUL and lone surrogates are escaped, as in JSON. */
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

/** The value that stands for an object in JSON. */
function jsonOf(value: object): unknown {
  const { toJSON } = value as { toJSON?: unknown }
  return typeof toJSON === 'function' ? toJSON.call(value) : value
}

/** Whether there are bytes anywhere within. */
export function hasBinary(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (isBinary(value)) return true
  if (Array.isArray(value)) return value.some(hasBinary)
  const json = jsonOf(value)
  return json === value ? Object.values(value).some(hasBinary) : hasBinary(json)
}

/** What JSON would make of a value, but for the bytes, which stay. */
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

/** The bytes of a value that is stored, and back. */
export const stored = {
  write: (value: unknown): string => base64(plain(value)),
  read: (bytes: Uint8Array): unknown => decode(bytes)
}
