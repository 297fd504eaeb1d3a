/**
 * `fastify-pg-websockets/emitter`: publishes from processes without a server, to websocket channels (`publish`) and to
 * the clients of Socket.IO servers (`Emitter`).
 */
export { type PublishOptions, publish } from './lib/publishing/publish-from-script.js'
export { BroadcastOperator, Emitter, type EmitterOptions } from './lib/socket.io/emitter.js'
