export { connect, PoolConnector } from './connecting/connect.js'
export { parseConninfo } from './connecting/connection-string.js'
export type { ConnectionTarget } from './connecting/connection-targets.js'
export { type SessionSettings, settingsOf, TIMEOUTS } from './connecting/session-settings.js'
export {
  CHANNEL_NAME_LIMIT,
  checkDatabaseChannel,
  databaseChannelProblem,
  NOTIFY_PAYLOAD_LIMIT
} from './database-channel.js'
export { ENCODING, isPartial } from './encoding.js'
export { failureOf, functionOutcomeOf, isTemporary, outcomeOf, unavailable } from './outcome.js'
export {
  ANNOUNCEMENTS_CHANNEL,
  isOwnChannel,
  nodeChannelOf,
  REVOCATIONS_CHANNEL,
  SEQUENCER_CHANNEL,
  SETTINGS_CHANNEL,
  VACANCY_CHANNEL
} from './own-channels.js'
export type { PgQuery, Query, Rows } from './query.js'
export { runSql } from './run-sql.js'
export { textArray } from './text-array.js'
