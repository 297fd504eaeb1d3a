/** How severe an event is. */
export type EventLevel = 'info' | 'warning' | 'error'

/** What happens on a node that its operator may want to know, and how severe it is, unless the event says otherwise. */
const LEVELS = {
  /** A connection has ended. */
  close: 'info',
  /** A handshake was refused. */
  refusal: 'warning',
  /** A client that may not write has sent a message, and its protocol has no answer for that. */
  ignored: 'warning',
  /** The address of a websocket or an event stream has a parameter that nothing reads. */
  'unknown-parameter': 'warning',
  'listener-lost': 'error',
  'listener-reconnected': 'warning',
  /** Messages from the database were given up. */
  'lost-messages': 'error',
  /** Notifications were missing, and their messages were read from the table. */
  'healed-gap': 'warning',
  /** Expired messages were deleted, or could not be. */
  retention: 'info',
  /** This node has migrated the schema. */
  migration: 'info',
  /** The schema and this node have become incompatible, or compatible again. */
  schema: 'error',
  /** This node has become the sequencer, or is it no longer. */
  sequencer: 'info',
  /** The bus between nodes is away, or back. */
  bus: 'warning',
  /** The status of the node has changed. */
  health: 'warning',
  /** What an administrator has done. */
  admin: 'info',
  /** Tokens were revoked, or a revocation was withdrawn. */
  revocation: 'info'
} as const satisfies Record<string, EventLevel>

export type EventType = keyof typeof LEVELS

/** All types of events. */
// Object.keys() is typed as string[], because objects may have more keys than their type says; a constant has none.
export const EVENT_TYPES = Object.keys(LEVELS) as readonly EventType[]

/** Whether a text is a type of event. */
export function isEventType(text: string): text is EventType {
  return Object.hasOwn(LEVELS, text)
}

/** What is known of an event, beside its type. Never anything secret: administrators read it. */
export interface AddedFields {
  /** A sentence for people. */
  text: string
  /** Default: that of the type. */
  level?: EventLevel | undefined
  /** The id of the connection, as in `GET /connections`. */
  connection?: string | undefined
  /** The claim `sub` of the client's token; of an admin's action: of the administrator's. */
  subject?: string | undefined
  /** The IP address of the client. */
  address?: string | undefined
  channels?: readonly string[] | undefined
  transport?: string | undefined
  /** A close code, or the code of an error. */
  code?: number | string | undefined
  /** One of a fixed set for each type. */
  reason?: string | undefined
  /** How many: closed connections, lost messages; or how many such events there were within a second. */
  count?: number | undefined
}

/** An event, as `GET /events` shows it. */
export interface ServerEvent extends AddedFields {
  /** `<node>-<number>`; the numbers of a node increase by one. */
  id: string
  /** The id of the node. */
  node: string
  /** ISO 8601. */
  time: string
  type: EventType
  level: EventLevel
}

/** An event in memory: a busy node adds many, and few are read. */
export interface StoredEvent {
  number: number
  /** Milliseconds since the epoch. */
  time: number
  type: EventType
  fields: AddedFields
}

/** How many channels of an event are kept. */
export const MAX_CHANNELS = 10

/** A text is cut to this many characters. */
const MAX_LENGTH = 500

/** What `GET /events` shows of an event of a node. */
export function describe(node: string, { number, time, type, fields }: StoredEvent): ServerEvent {
  const event: ServerEvent = {
    id: `${node}-${number}`,
    node,
    time: new Date(time).toISOString(),
    type,
    level: fields.level ?? LEVELS[type],
    text: cut(fields.text)
  }
  const { connection, subject, address, channels, transport, code, reason, count } = fields
  if (connection !== undefined) event.connection = connection
  if (subject !== undefined) event.subject = cut(subject)
  if (address !== undefined) event.address = address
  if (channels !== undefined) event.channels = channels.slice(0, MAX_CHANNELS).map(cut)
  if (transport !== undefined) event.transport = transport
  if (code !== undefined) event.code = code
  if (reason !== undefined) event.reason = cut(reason)
  if (count !== undefined) event.count = count
  return event
}

function cut(text: string): string {
  return text.length <= MAX_LENGTH ? text : `${text.slice(0, MAX_LENGTH - 1)}…`
}
