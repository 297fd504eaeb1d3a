export { EventLog } from './event-log.js'
export type { NodeStats } from './node-stats.js'
export {
  type AddedFields,
  EVENT_TYPES,
  type EventType,
  isEventType,
  type ServerEvent
} from './server-event.js'
