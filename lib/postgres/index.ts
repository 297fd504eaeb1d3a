export { connect, PoolConnector } from './connect.js'
export { type ConnectionTarget, parseConninfo } from './connection-string.js'
export {
  CHANNEL_NAME_LIMIT,
  checkDatabaseChannel,
  databaseChannelProblem,
  NOTIFY_PAYLOAD_LIMIT
} from './database-channel.js'
export { ENCODING, isPartial } from './encoding.js'
export { withLargeArrays } from './large-arrays.js'
export { away, failureOf, isInTheWay, outcomeOf, refused } from './outcome.js'
export { isNodeChannel, nodeChannelOf, SETTINGS_CHANNEL } from './own-channels.js'
export type { PgQuery, Query, Rows } from './query.js'
export { runSql } from './run-sql.js'
export { type SessionSettings, settingsOf, TIMEOUTS } from './session-settings.js'
export { textArray } from './text-array.js'
