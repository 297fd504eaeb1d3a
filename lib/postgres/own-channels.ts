import { createHash } from 'node:crypto'
import { CHANNEL_NAME_LIMIT } from './database-channel.js'

/** The database channel on which the schema notifies servers of changed settings. */
export const SETTINGS_CHANNEL = 'pgws'

/** The database channel on which writers wake the sequencer (pgws.send in lib/schema/sql/012-sequencer.sql). */
export const SEQUENCER_CHANNEL = 'pgws_sequencer'

/** Where a sequencer says that another node may take over at once. */
export const VACANCY_CHANNEL = 'pgws_vacancy'

/** The database channel on which the database announces positions (pgws.announcement in lib/schema/sql). */
export const ANNOUNCEMENTS_CHANNEL = 'pgws_announcements'

/** The database channel on which the schema notifies servers of revocations (pgws.notify_revocation in lib/schema/sql). */
export const REVOCATIONS_CHANNEL = 'pgws_revocations'

const PREFIX = 'pgws_nodes:'

/** The database channel of the nodes that share a listen channel. It contains a hash if the name would be too long. */
export function nodeChannelOf(listenChannel: string): string {
  const name = PREFIX + listenChannel
  if (Buffer.byteLength(name) <= CHANNEL_NAME_LIMIT) return name
  return PREFIX + createHash('sha256').update(listenChannel).digest('hex').slice(0, 32)
}

const OWN = [SETTINGS_CHANNEL, SEQUENCER_CHANNEL, VACANCY_CHANNEL, ANNOUNCEMENTS_CHANNEL, REVOCATIONS_CHANNEL]

/** Whether a database channel is reserved for servers, so that no client may join it. */
export function isOwnChannel(databaseChannel: string): boolean {
  return OWN.includes(databaseChannel) || databaseChannel.startsWith(PREFIX)
}
