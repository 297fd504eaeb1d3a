export { type Notification, Publisher } from './batch-queue.js'
export type { Rejection } from './message-function.js'
export { type PublishOptions, publish } from './publish-from-script.js'
export { Outbox } from './publisher.js'
