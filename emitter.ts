/** `fastify-pg-websockets/emitter`: publishes from processes that run no server. */
export { type PublishOptions, publish } from './lib/publishing/publish-from-script.js'
export { BroadcastOperator, Emitter, type EmitterOptions } from './lib/socket.io/emitter.js'
