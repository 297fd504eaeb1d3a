export { CatchUp } from './catch-up.js'
export { CLOSES_A_TURN, Clients, type JoinOptions, type Refusal } from './clients.js'
export type { ClientConnection } from './connections/client-connection.js'
export { CLOSE_REASONS, type CloseReason } from './connections/close-reason.js'
export { CLOSE, Connection, type ConnectionOptions } from './connections/connection.js'
export { Expiry } from './connections/expiry.js'
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
} from './connections/filter.js'
export { type Leaving, OUTDATED, SHUTTING_DOWN } from './connections/registry.js'
export type { Remote } from './connections/remote.js'
export {
  hasEnded,
  isTransport,
  TRANSPORTS,
  type Transport,
  type TransportName,
  whenEnded
} from './connections/transport.js'
export { type Follower, follow } from './follow.js'
export { mayPing, type Pinged } from './pinged.js'
export { MAX_INFO_BYTES } from './presence-membership.js'
