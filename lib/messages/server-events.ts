import { membersOf } from '../json-text.js'

/** A member of a presence channel. */
export interface PresenceMember {
  /** The id of its connection, `<node>-<number>`, as in `GET /connections`. */
  client: string
  /** The claim `sub` of its token; empty if it has none, or if `envelopeClaims` hides it. */
  user: string
  /** The claim `info` of an SDK's token, any JSON value. */
  info?: unknown
}

/** The members of a presence channel. */
export interface PresenceList {
  clients: readonly PresenceMember[]
  /** The id of the connection that receives the list. Missing in a list for all. */
  you?: string
}

/** The size of a presence channel. */
export interface PresenceSummary {
  /** The number of clients. */
  count: number
  /** The number of different users. All clients without a user count as one. */
  users: number
}

/** Messages that cannot be replayed. Each member is the id of a message, or null if there is none or it is not known. */
export interface HistoryGap {
  /** The id that the client sent as `since`. */
  requested: string | null
  /** The oldest message that is stored. */
  oldest: string | null
  /** The last message. */
  latest: string | null
}

/** A message from a client that `onMessageFunction` refused. */
export interface RejectedMessage {
  channels: readonly string[]
  message: string
  sqlstate: string
  /** What the client sent. */
  payload: string
}

/** An event of the server itself. Wire formats recognize it by this type, never by the text of a message. */
export type ServerEvent =
  | { event: 'HistoryGap'; payload: HistoryGap }
  | { event: 'Presence'; payload: PresenceList | PresenceSummary }
  | { event: 'Join' | 'Leave'; payload: PresenceMember }
  | { event: 'Rejected'; payload: RejectedMessage }

/**
 * Whether a text could be mistaken for a server event: an object with a member `pgws`. Such a text is neither published
 * nor delivered.
 */
export function isReserved(text: string): boolean {
  // Most texts contain neither the name nor an escape, with which it could be written.
  if (!text.includes('pgws') && !text.includes('\\u00')) return false
  const members = membersOf(text)
  if (members !== undefined) return members.has('pgws')
  // Parsers of other languages accept more than JSON: numbers such as NaN, comments, a byte order mark.
  return /^[\s\ufeff]*\{/.test(text) && /pgws|\\u00[67]/.test(text)
}
