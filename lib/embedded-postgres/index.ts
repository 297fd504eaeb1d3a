export { findBinaries } from './binaries.js'
export { findSecret, keepSecret } from './secret.js'
export { findRunningEmbedded, startEmbeddedPostgres } from './server.js'
