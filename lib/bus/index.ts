export {
  type Announcement,
  type Audience,
  type Beat,
  type Bus,
  type BusHandlers,
  channelHash
} from './bus.js'
export { NotifyBus } from './notify-bus.js'
