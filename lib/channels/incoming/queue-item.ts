import type { Beat, Announcement as BusAnnouncement } from '../../bus/index.js'
import type { Announcement, Message, Reference } from '../../messages/index.js'
import type { LossReason } from './losses.js'

/** Counts the deliveries of one publication. */
export interface Tally {
  id: string
  delivered: number
}

/** A message that waits for its turn, or until its row has been read. */
export interface Arrival {
  tally: Tally | undefined
  reference?: Reference
  /** The message, or the reason why there is none; undefined until the row has been read; null if it has no readers here. */
  outcome: Message | LossReason | undefined | null
  error?: unknown
  /** When to stop trying to read its row; undefined while no read has failed. */
  deadline?: number
  /** Where it stands among all messages, if it came over the bus. */
  place?: Omit<BusAnnouncement, 'text'>
}

/** Waits until everything before it has been delivered, and reports the count of a publication. */
export interface Count {
  tally: Tally
  counted: (delivered: number) => void
}

/** An announcement of the messages that follow. */
interface Announced {
  announcement: Announcement
}

/** A beat of the bus, which says up to where was announced. */
interface Beating {
  beat: Beat
}

/** An item of the queue. */
export type Item = Arrival | Count | Announced | Beating

/** Whether an item waits until its row has been read. */
export function isUnread(item: Item): item is Arrival {
  return 'outcome' in item && item.outcome === undefined
}

/** The position of a durable message; undefined for any other message. */
export function durablePositionOf({ reference, outcome }: Arrival): number | undefined {
  if (reference !== undefined) return reference.table === 'message' ? reference.position : undefined
  return typeof outcome === 'object' ? outcome?.position : undefined
}

/** The first durable position of an item; infinity if it has none. */
export function positionOf(item: Item): number {
  if ('announcement' in item) return item.announcement.first
  return ('outcome' in item ? durablePositionOf(item) : undefined) ?? Number.POSITIVE_INFINITY
}

/** Marks messages as unreadable. */
export function giveUp(arrivals: readonly Arrival[], error: unknown): void {
  for (const arrival of arrivals) Object.assign(arrival, { outcome: 'unreadable', error })
}
