import { hash } from 'node:crypto'

/** What the database says of the durable messages that it notifies next (pgws.announcement in lib/schema/sql). */
export interface Announcement {
  /** Everything up to this position was announced before. */
  previous: number
  /** The positions of the messages, without `missing`. If `first` is greater than `last`, there are none for us. */
  first: number
  last: number
  missing: ReadonlySet<number>
}

const ANNOUNCEMENT = /^([0-9a-f]{64}) ((\d{1,16}) (\d{1,16}) (\d{1,16}) (-|[\d,]+) (.+))$/s

const NONE: ReadonlySet<number> = new Set()

/**
 * Parses a notification of the database channel of announcements. Any role that may connect to the database can send one.
 * @param secret only servers can read it; with it, the database has signed what it announces
 * @param listenChannel messages of another one do not arrive here
 * @returns undefined if the database has not made it
 */
export function readAnnouncement(
  payload: string,
  secret: string,
  listenChannel: string
): Announcement | undefined {
  const [, signature, words, ...rest] = ANNOUNCEMENT.exec(payload) ?? []
  if (words === undefined) return undefined
  if (hash('sha256', words + secret) !== signature) return undefined
  // The pattern matches with all of its groups, or not at all.
  const [previous, first, last, missing, channel] = rest as [string, string, string, string, string]
  const start = Number(first)
  return {
    previous: Number(previous),
    first: channel === listenChannel ? start : Number(last) + 1,
    last: Number(last),
    missing: missing === '-' ? NONE : new Set(missing.split(',').map((offset) => start + Number(offset)))
  }
}
