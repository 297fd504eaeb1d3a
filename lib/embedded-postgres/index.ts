export { readOwnFile, writeOwnFile } from './own-file.js'
export { findRunningEmbedded, startEmbeddedPostgres } from './server.js'
