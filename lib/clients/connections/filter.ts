import { isPublicChannel } from '../../channels/index.js'
import { errors } from '../../errors.js'
import { isInteger, isObject } from '../../json-value.js'
import { CLOSE, type Connection } from './connection.js'
import { isTransport, TRANSPORTS, type TransportName } from './transport.js'

/** A control frame carries 125 bytes, two of which are the code (RFC 6455, section 5.5). */
const MAX_REASON_BYTES = 123

/** Selects connections. All members that are given must match. */
export interface ConnectionFilter {
  /** The id of a connection, as in `GET /connections`. */
  id?: string | undefined
  /** The claim `sub` of its token. */
  subject?: string | undefined
  /** One of its channels. */
  channel?: string | undefined
  /** The client's IP address. */
  address?: string | undefined
  transport?: TransportName | undefined
}

/** A connection, as `GET /connections` shows it. */
export interface ConnectionSummary {
  id: string
  /** The id of its node. */
  node: string
  /** The claim `sub` of its token. */
  subject: string | null
  channels: readonly string[]
  mode: 'r' | 'w' | 'rw'
  /** When it was opened, in ISO 8601. */
  since: string
  /** The client's IP address. */
  address: string
  /** Missing, like the members below that may be, if the node is of an older release. */
  transport?: TransportName | undefined
  /** The encoding of Centrifugo's protocol; missing for clients of another protocol. */
  protocol?: 'json' | 'protobuf' | undefined
  /** The header `User-Agent` of its request, up to 200 characters; null: it had none. */
  userAgent?: string | null | undefined
  /** When it will be closed because its token expires, in ISO 8601; null: never. */
  expiresAt?: string | null | undefined
  /** How many messages of it were accepted for publishing. */
  receivedMessages?: number | undefined
  /** How many messages and bytes were sent to it. */
  sentMessages?: number | undefined
  sentBytes?: number | undefined
  /** How many bytes wait for the client. */
  bufferedBytes: number
}

/** The close code and reason of a connection. */
export interface Closing {
  code: number
  reason: string
}

/** The id of a connection, unique among all nodes. It is built when needed, so that connections need not store it. */
export function connectionId(node: string, { id }: Connection): string {
  return `${node}-${id}`
}

/** The parts of a connection's id. */
export interface ConnectionPlace {
  /** The id of the node. */
  node: string
  /** The number of the connection on its node. */
  number: number
}

/** Reads a connection's id; undefined if the text is not the id of a connection. */
export function placeOf(id: string): ConnectionPlace | undefined {
  const [, node, number] = /^([0-9a-f]{16})-(\d{1,15})$/.exec(id) ?? []
  return node === undefined ? undefined : { node, number: Number(number) }
}

/** The order of connections in lists: by node, and from the oldest to the newest. */
export function comparePlaces(one: ConnectionPlace, other: ConnectionPlace): number {
  if (one.node !== other.node) return one.node < other.node ? -1 : 1
  return one.number - other.number
}

/** Whether an open connection of a node matches a filter. */
export function matches(
  node: string,
  connection: Connection,
  { id, subject, channel, address, transport }: ConnectionFilter
): boolean {
  if (id !== undefined && connectionId(node, connection) !== id) return false
  if (subject !== undefined && connection.subject !== subject) return false
  if (address !== undefined && connection.address !== address) return false
  if (transport !== undefined && connection.transport !== transport) return false
  return (channel === undefined || connection.channels.includes(channel)) && connection.open
}

export function summaryOf(node: string, connection: Connection): ConnectionSummary {
  const { subject, channels, read, write, openedAt, address, transport, protocol, userAgent } = connection
  const { expiresAt, receivedMessages, sentMessages, writtenBytes, bufferedBytes } = connection
  return {
    id: connectionId(node, connection),
    node,
    subject: subject ?? null,
    channels: channels.filter(isPublicChannel),
    mode: read && write ? 'rw' : read ? 'r' : 'w',
    since: new Date(openedAt).toISOString(),
    address,
    transport,
    ...(protocol !== undefined && { protocol }),
    userAgent: userAgent ?? null,
    expiresAt: expiresAt === undefined ? null : timeOf(expiresAt),
    receivedMessages,
    sentMessages,
    sentBytes: writtenBytes,
    bufferedBytes
  }
}

/** A time in ISO 8601. A token may expire after the range of a Date, which is in the year 275760. */
function timeOf(time: number): string {
  return new Date(Math.min(time, 8.64e15)).toISOString()
}

/**
 * Checks the filter of a request.
 * @throws BadQuery (400)
 */
export function readFilter(value: unknown): ConnectionFilter {
  if (!isObject(value)) throw new errors.BadQuery('a filter must be an object')
  const { id, subject, channel, address, transport } = value
  const text = (name: string, value: unknown) => {
    if (value === undefined || typeof value === 'string') return value
    throw new errors.BadQuery(`"${name}" must be a single string`)
  }
  if (transport !== undefined && !isTransport(transport)) {
    throw new errors.BadQuery(
      `"transport" must be one of ${TRANSPORTS.map((name) => `"${name}"`).join(', ')}`
    )
  }
  return {
    id: text('id', id),
    subject: text('subject', subject),
    channel: text('channel', channel),
    address: text('address', address),
    transport
  }
}

/**
 * Checks the filter of a request to close connections. An empty filter is refused, because it would close all of them.
 * @throws BadQuery (400)
 */
export function readClosingFilter(value: unknown): ConnectionFilter {
  const filter = readFilter(value)
  if (Object.values(filter).every((text) => text === undefined)) {
    throw new errors.BadQuery(
      '"subject", "channel", "address" or "transport" must say which connections to close'
    )
  }
  return filter
}

/**
 * Checks a close code and reason. Default: 3000 and `disconnected`.
 * @throws BadQuery (400) for a code that applications may not send (RFC 6455, section 7.4; the WebSocket API,
 *   https://websockets.spec.whatwg.org/#dom-websocket-close), and for a reason that is too long
 */
export function readClosing(value: unknown): Closing {
  const { code, reason } = isObject(value) ? value : {}
  const number = code ?? CLOSE.DISCONNECTED
  if (!isInteger(number) || !(number === 1000 || (number >= 3000 && number <= 4999))) {
    throw new errors.BadQuery('"code" must be 1000, or a whole number from 3000 to 4999')
  }
  const text = reason ?? 'disconnected'
  if (typeof text !== 'string' || Buffer.byteLength(text) > MAX_REASON_BYTES) {
    throw new errors.BadQuery(`"reason" must be a string of at most ${MAX_REASON_BYTES} bytes`)
  }
  return { code: number, reason: text }
}
