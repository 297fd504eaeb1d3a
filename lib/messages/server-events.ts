import { membersOf } from '../json-text.js'

/** A client that is in a presence channel. */
export interface PresenceMember {
  /** Its connection's id, as `GET /connections` shows it: `<node>-<number>`. */
  client: string
  /** The claim `sub` of its token; empty where it has none, or others may not see it. */
  user: string
  /** Any JSON value that others see of it. */
  info?: unknown
}

/** How many are in a channel. */
export interface PresenceSummary {
  /** How many clients. */
  count: number
  /** How many different users; all without a name are one. */
  users: number
}

/** What cannot be replayed: ids of messages, or null where there is none, or it is not known. */
export interface HistoryGap {
  /** After which the client asked to begin. */
  requested: string | null
  /** The oldest that is there. */
  oldest: string | null
  /** The last of all. */
  latest: string | null
}

/** A message of a client that a function of the database's owner has refused. */
export interface RejectedMessage {
  channels: readonly string[]
  message: string
  sqlstate: string
  /** What the client sent. */
  payload: string
}

/** What the server itself has to say to its clients. Formats know it by this type, never by a text. */
export type ServerEvent =
  | { event: 'HistoryGap'; payload: HistoryGap }
  | { event: 'Presence'; payload: { clients: readonly PresenceMember[] } | PresenceSummary }
  | { event: 'Join' | 'Leave'; payload: PresenceMember }
  | { event: 'Rejected'; payload: RejectedMessage }

/**
 * Whether a text could be taken for one of the server's own: an object with a member `pgws`. Such a text is not published,
 * and not delivered.
 */
export function isReserved(text: string): boolean {
  // Most texts are told by what they do not hold; a name may be written with escapes.
  if (!text.includes('pgws') && !text.includes('\\u00')) return false
  const members = membersOf(text)
  if (members !== undefined) return members.has('pgws')
  // Parsers of other languages read more than JSON: numbers such as NaN, comments, a byte order mark.
  return /^[\s\ufeff]*\{/.test(text) && /pgws|\\u00[67]/.test(text)
}
