export { acquireAll } from './acquire-all.js'
export {
  AudienceChannels,
  audienceChannel,
  audiencesOf,
  checkAudiences,
  DEFAULT_AUDIENCE,
  isPublicChannel
} from './audience-channels.js'
export { BusChannels } from './bus-channels.js'
export { BusDeliveries, type PlaceInChannel } from './bus-deliveries.js'
export {
  CHANNEL_SORTS,
  type ChannelFilter,
  type ChannelQuery,
  type ChannelSort,
  type ListedChannel,
  listChannels,
  matchesFilter
} from './channel-list.js'
export { encodeSafely, type Format, type Frame, joinFrames, type OnUnencodable } from './frames.js'
export { type ChannelSummary, Hub, type Permissions, type RatedChannel, type Subscriber } from './hub.js'
export { ChannelOrder } from './incoming/channel-order.js'
export { IncomingQueue } from './incoming/incoming-queue.js'
export { Losses, type LossReason } from './incoming/losses.js'
export { ListenedChannels } from './listened-channels.js'
export { RawChannels } from './raw-channels.js'
