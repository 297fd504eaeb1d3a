import type { ChannelSummary, RatedChannel } from '../../channels/index.js'
import { type ConnectionSummary, isTransport, placeOf } from '../../clients/index.js'
import { isCount, isObject } from '../../json-value.js'
import type { Page } from '../../page.js'

/** Checks for the answers of other nodes. Any role that may connect to the database can send an answer of any shape. */

export function isBoolean(value: unknown): value is boolean {
  return typeof value === 'boolean'
}

export function isChannels(value: unknown): value is ChannelSummary[] {
  return isListOf(value, ({ channel, connections, readers, writers }) => {
    return typeof channel === 'string' && [connections, readers, writers].every(isCount)
  })
}

/** Older nodes send no rates. */
export function isRatedChannels(value: unknown): value is (ChannelSummary & Partial<RatedChannel>)[] {
  return (
    isChannels(value) &&
    value.every(({ rate = null }: Partial<RatedChannel>) => rate === null || Number.isFinite(rate))
  )
}

export function isConnections(value: unknown): value is ConnectionSummary[] {
  return isListOf(value, (item) => {
    const { id, node, subject, channels, mode, since, address, bufferedBytes } = item
    const texts = [id, node, subject ?? '', mode, since, address].every((text) => typeof text === 'string')
    if (!texts || placeOf(String(id)) === undefined) return false
    return Array.isArray(channels) && isCount(bufferedBytes) && hasValidDetails(item)
  })
}

/** Checks what older releases do not say of a connection. */
function hasValidDetails(item: Record<string, unknown>): boolean {
  const { transport, protocol, userAgent, expiresAt, receivedMessages, sentMessages, sentBytes } = item
  if (transport !== undefined && !isTransport(transport)) return false
  if (![protocol ?? '', userAgent ?? '', expiresAt ?? ''].every((text) => typeof text === 'string'))
    return false
  return [receivedMessages, sentMessages, sentBytes].every((count) => count === undefined || isCount(count))
}

/** @returns a check for a page of connections with at most `limit` items */
export function isConnectionsPage(limit = Number.POSITIVE_INFINITY) {
  return (value: unknown): value is Page<ConnectionSummary> => {
    if (!isObject(value)) return false
    const { items, total, more } = value
    return isConnections(items) && items.length <= limit && isCount(total) && typeof more === 'boolean'
  }
}

function isListOf(value: unknown, isItem: (item: Record<string, unknown>) => boolean): boolean {
  return Array.isArray(value) && value.every((item) => isObject(item) && isItem(item))
}
