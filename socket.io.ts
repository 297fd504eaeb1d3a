/** `fastify-pg-websockets/socket.io`: an adapter for Socket.IO servers that share a PostgreSQL database. */

export type { AdapterOptions, AdapterOptions as PostgresAdapterOptions } from './lib/socket.io/index.js'
export { createAdapter, PostgresAdapter } from './lib/socket.io/index.js'
