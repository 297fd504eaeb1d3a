import { isPublicChannel } from '../channels/index.js'
import { errors } from '../errors.js'
import { isInteger, isObject } from '../json-value.js'
import { CLOSE, type Connection } from './connection.js'

/** RFC 6455, section 5.5: a control frame carries 125 bytes, two of them for the code. */
const MAX_REASON_BYTES = 123

/** Which connections are meant: those that fit all that is given. */
export interface ConnectionFilter {
  /** As `GET /connections` shows it. */
  id?: string | undefined
  /** The claim `sub`. */
  subject?: string | undefined
  channel?: string | undefined
}

/** A connection, as the control plane shows it. */
export interface ConnectionSummary {
  id: string
  /** The node that holds it. */
  node: string
  /** The claim `sub` of its token. */
  subject: string | null
  channels: readonly string[]
  mode: 'r' | 'w' | 'rw'
  /** ISO 8601. */
  since: string
  /** The client's IP address. */
  address: string
  /** How many bytes wait for the client. */
  bufferedBytes: number
}

/** With what a connection is closed. */
export interface Closing {
  code: number
  reason: string
}

/** The id that others know a connection by. Made when it is asked for, so that connections need not keep it. */
export function connectionId(node: string, { id }: Connection): string {
  return `${node}-${id}`
}

/** The node of a connection's id; undefined for what is none. */
export function nodeOf(id: string): string | undefined {
  return /^([0-9a-f]{16})-\d+$/.exec(id)?.[1]
}

/** The connections of a node that a filter means; none that is being closed. */
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
  const { subject, channels, read, write, openedAt, address, bufferedBytes } = connection
  return {
    id: connectionId(node, connection),
    node,
    subject: subject ?? null,
    channels: channels.filter(isPublicChannel),
    mode: read && write ? 'rw' : read ? 'r' : 'w',
    since: new Date(openedAt).toISOString(),
    address,
    bufferedBytes
  }
}

/**
 * Checks a filter that came from outside.
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
 * Checks a filter for what is to be closed: by mistake, an empty one must not mean all.
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
 * Checks with what to close; without a code 3000, without a reason `disconnected`.
 * @throws BadQuery (400) for a code that no application may send (RFC 6455, section 7.4; the WebSocket API,
 *   https://websockets.spec.whatwg.org/#dom-websocket-close), and for a reason that is too long
 */
export function readClosing({ code, reason }: { code?: unknown; reason?: unknown }): Closing {
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
