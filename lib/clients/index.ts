export { CatchUp } from './catch-up.js'
export type { ClientConnection } from './client-connection.js'
export { CLOSES_A_TURN, Clients, type JoinOptions, type Refusal } from './clients.js'
export { CLOSE_REASONS, type CloseReason } from './close-reason.js'
export { CLOSE, Connection, type ConnectionOptions } from './connection.js'
export { Expiry } from './expiry.js'
export {
  type Closing,
  type ConnectionFilter,
  type ConnectionPlace,
  type ConnectionSummary,
  comparePlaces,
  matches,
  placeOf,
  readClosing,
  readClosingFilter,
  readFilter,
  summaryOf
} from './filter.js'
export { type Follower, follow } from './follow.js'
export { mayPing, type Pinged } from './pinged.js'
export { MAX_INFO_BYTES } from './presence-membership.js'
export { type Leaving, OUTDATED, SHUTTING_DOWN } from './registry.js'
export type { Remote } from './remote.js'
export {
  hasEnded,
  isTransport,
  TRANSPORTS,
  type Transport,
  type TransportName,
  whenEnded
} from './transport.js'
