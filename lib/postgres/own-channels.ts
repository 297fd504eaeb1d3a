import { createHash } from 'node:crypto'
import { CHANNEL_NAME_LIMIT } from './database-channel.js'

/** The database channel that tells of changed settings. */
export const SETTINGS_CHANNEL = 'pgws'

const PREFIX = 'pgws_nodes:'

/** The database channel of the nodes that share a listen channel: its name can be read, unless it is too long. */
export function nodeChannelOf(listenChannel: string): string {
  const name = PREFIX + listenChannel
  if (Buffer.byteLength(name) <= CHANNEL_NAME_LIMIT) return name
  return PREFIX + createHash('sha256').update(listenChannel).digest('hex').slice(0, 32)
}

/** Whether nodes talk on a database channel, ours or others: no client may. */
export function isNodeChannel(databaseChannel: string): boolean {
  return databaseChannel.startsWith(PREFIX)
}
