import { isPublicChannel } from '../channels/index.js'
import { errors } from '../errors.js'
import { isInteger, isObject } from '../json-value.js'
import { CLOSE, type Connection } from './connection.js'
import type { TransportName } from './transport.js'

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
  transport: TransportName
  /** The encoding of Centrifugo's protocol; missing for clients of another protocol. */
  protocol?: 'json' | 'protobuf' | undefined
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

/** The id of the node in a connection's id; undefined if the text is not the id of a connection. */
export function nodeOf(id: string): string | undefined {
  return /^([0-9a-f]{16})-\d+$/.exec(id)?.[1]
}

/** The open connections of a node that match a filter. */
export function* select(
  connections: Iterable<Connection>,
  node: string,
  { id, subject, channel }: ConnectionFilter
): Generator<Connection> {
  for (const connection of connections) {
    if (id !== undefined && connectionId(node, connection) !== id) continue
    if (subject !== undefined && connection.subject !== subject) continue
    if (channel !== undefined && !connection.channels.includes(channel)) continue
    if (connection.open) yield connection
  }
}

export function summaryOf(node: string, connection: Connection): ConnectionSummary {
  const { subject, channels, read, write, openedAt, address, transport, protocol, bufferedBytes } = connection
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
    bufferedBytes
  }
}

/**
 * Checks the filter of a request.
 * @throws BadQuery (400)
 */
export function readFilter(value: unknown): ConnectionFilter {
  if (!isObject(value)) throw new errors.BadQuery('a filter must be an object')
  const { id, subject, channel } = value
  const text = (name: string, value: unknown) => {
    if (value === undefined || typeof value === 'string') return value
    throw new errors.BadQuery(`"${name}" must be a single string`)
  }
  return { id: text('id', id), subject: text('subject', subject), channel: text('channel', channel) }
}

/**
 * Checks the filter of a request to close connections. An empty filter is refused, because it would close all of them.
 * @throws BadQuery (400)
 */
export function readClosingFilter(value: unknown): ConnectionFilter {
  const filter = readFilter(value)
  if (Object.values(filter).every((text) => text === undefined)) {
    throw new errors.BadQuery('"subject" or "channel" must say which connections to close')
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
