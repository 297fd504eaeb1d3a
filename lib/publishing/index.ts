export { BatchQueue, MAY_WAIT, type Notification } from './batch-queue.js'
export type { Rejection } from './function-calls.js'
export { type PublishOptions, publish } from './publish-from-script.js'
export { Publisher } from './publisher.js'
