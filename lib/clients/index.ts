export { CatchUp } from './catch-up.js'
export type { ClientConnection } from './client-connection.js'
export { Clients, type JoinOptions } from './clients.js'
export { CLOSE, Connection, type ConnectionOptions } from './connection.js'
export { Expiry } from './expiry.js'
export {
  type Closing,
  type ConnectionFilter,
  type ConnectionSummary,
  nodeOf,
  readClosing,
  readClosingFilter,
  readFilter,
  select,
  summaryOf
} from './filter.js'
export { unsentBytesOf } from './flow-control.js'
export { HeldAnswer } from './held-answer.js'
export { HeldFrames } from './held-frames.js'
export { Intake, Pace } from './intake.js'
export { PAUSED, type Pausable } from './pausable.js'
export { MAX_INFO_BYTES } from './presence-membership.js'
export { type Leaving, OUTDATED, SHUTTING_DOWN } from './registry.js'
export { isGone, type Transport, whenGone } from './transport.js'
