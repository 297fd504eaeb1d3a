export {
  type Announcement,
  type Audience,
  type Beat,
  type Bus,
  type BusHandlers,
  channelHash
} from './bus.js'
export { NatsBus, type NatsBusOptions } from './nats-bus.js'
export { type DatabaseIdentity, prefixOf } from './nats-wire.js'
export { NotifyBus } from './notify-bus.js'
