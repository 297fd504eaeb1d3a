export {
  AudienceChannels,
  audienceChannel,
  audiencesOf,
  checkAudiences,
  DEFAULT_AUDIENCE,
  isPublicChannel
} from './audience-channels.js'
export {
  type ChannelSummary,
  encodeSafely,
  type Format,
  type Frame,
  Hub,
  type OnUnencodable,
  type Permissions,
  type Subscriber
} from './hub.js'
export { IncomingQueue } from './incoming-queue.js'
export { Losses, type LossReason } from './losses.js'
export { RawChannels } from './raw-channels.js'
