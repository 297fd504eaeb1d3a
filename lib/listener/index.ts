export { checkCanListen, type Pooler, poolerOf } from './can-listen.js'
export { Listener } from './listener.js'
export type { ListenerEvent, ListenerState } from './listener-options.js'
export { NotificationQueueUsage } from './notify-queue-usage.js'
