import type { ChannelSummary, RatedChannel } from '../channels/index.js'
import type { ConnectionSummary } from '../clients/index.js'
import { isCount, isObject } from '../json-value.js'

/** Checks for the answers of other nodes. Any role that may connect to the database can send an answer of any shape. */

export function isBoolean(value: unknown): value is boolean {
  return typeof value === 'boolean'
}

export function isChannels(value: unknown): value is ChannelSummary[] {
  return isListOf(value, ({ channel, connections, readers, writers }) => {
    return typeof channel === 'string' && [connections, readers, writers].every(isCount)
  })
}

/** Older nodes tell no rates. */
export function isRatedChannels(value: unknown): value is (ChannelSummary & Partial<RatedChannel>)[] {
  return (
    isChannels(value) &&
    value.every(({ rate = null }: Partial<RatedChannel>) => rate === null || Number.isFinite(rate))
  )
}

export function isConnections(value: unknown): value is ConnectionSummary[] {
  return isListOf(value, ({ id, node, subject, channels, mode, since, address, bufferedBytes }) => {
    const texts = [id, node, subject ?? '', mode, since, address].every((text) => typeof text === 'string')
    return texts && Array.isArray(channels) && isCount(bufferedBytes)
  })
}

function isListOf(value: unknown, isItem: (item: Record<string, unknown>) => boolean): boolean {
  return Array.isArray(value) && value.every((item) => isObject(item) && isItem(item))
}
