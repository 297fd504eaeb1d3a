/** `fastify-pg-websockets/socket.io`: an adapter for Socket.IO servers that share a database. */
export { createAdapter, PostgresAdapter } from './lib/socket.io/adapter.js'
export type { AdapterOptions, AdapterOptions as PostgresAdapterOptions } from './lib/socket.io/options.js'
