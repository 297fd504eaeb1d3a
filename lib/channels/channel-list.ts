import { errors } from '../errors.js'
import { mapInTurns, type Paging, pageOf, readLimit } from '../page.js'
import type { RatedChannel } from './hub.js'

export const CHANNEL_SORTS = ['channel', 'readers', 'rate'] as const
export type ChannelSort = (typeof CHANNEL_SORTS)[number]

/** Which channels are listed. */
export interface ChannelFilter {
  /** A part of their names. */
  search?: string | undefined
  /** The name of one channel. */
  channel?: string | undefined
}

/** The same, and in which order. */
export interface ChannelQuery extends ChannelFilter, Paging {
  /** By name (the default), or by readers or rate, the largest first. */
  sort?: ChannelSort | undefined
}

/** What a channel is. */
export interface ChannelFlags {
  /** Its messages are stored. */
  durable: boolean
  /** It tracks its members. */
  presence: boolean
  /** It is the database channel of the same name. */
  raw: boolean
}

export interface ListedChannel extends RatedChannel, ChannelFlags {}

/** Where a page begins: the value of the channel before it in the order, and its name. */
type Cursor = Pick<RatedChannel, 'channel'> & { value: number }

/** Whether a channel is listed. */
export function matchesFilter(name: string, { search = '', channel }: ChannelFilter): boolean {
  return (channel === undefined || name === channel) && name.includes(search)
}

/**
 * Lists channels in pages.
 * @param flagsOf says what a channel is
 * @throws BadQuery (400)
 */
export async function listChannels(
  channels: Iterable<RatedChannel>,
  { sort = 'channel', limit, after, onPage, ...filter }: ChannelQuery,
  flagsOf: (channel: string) => ChannelFlags
): Promise<ListedChannel[]> {
  if (!CHANNEL_SORTS.includes(sort)) {
    throw new errors.BadQuery(`"sort" must be one of ${CHANNEL_SORTS.map((one) => `"${one}"`).join(', ')}`)
  }
  const sortedBy = (channel: RatedChannel) => (sort === 'channel' ? 0 : (channel[sort] ?? 0))
  const start = after === undefined ? undefined : readCursor(after)
  const page = await pageOf(channels, {
    matches: ({ channel }) => matchesFilter(channel, filter),
    isAfter: (channel) => start === undefined || comparePlaces(placeOf(channel), start) > 0,
    compare: (one, other) => comparePlaces(placeOf(one), placeOf(other)),
    limit: readLimit(limit)
  })
  const last = page.items.at(-1)
  onPage?.({
    total: page.total,
    next: page.more && last !== undefined ? cursorOf(placeOf(last)) : undefined
  })
  return mapInTurns(page.items, (channel) => ({ ...channel, ...flagsOf(channel.channel) }))

  function placeOf(channel: RatedChannel): Cursor {
    return { value: sortedBy(channel), channel: channel.channel }
  }
}

/** The largest values first; among equal ones by name. */
function comparePlaces(one: Cursor, other: Cursor): number {
  return other.value - one.value || (one.channel < other.channel ? -1 : one.channel > other.channel ? 1 : 0)
}

/** Encoded, because names of channels are sent in a header. */
function cursorOf({ value, channel }: Cursor): string {
  return Buffer.from(JSON.stringify([value, channel])).toString('base64url')
}

/** @throws BadQuery (400) */
function readCursor(text: string): Cursor {
  try {
    const [value, channel] = JSON.parse(Buffer.from(text, 'base64url').toString())
    if (Number.isFinite(value) && typeof channel === 'string') return { value, channel }
  } catch {}
  throw new errors.BadQuery('"after" must be the header x-pgws-next of the previous page')
}
