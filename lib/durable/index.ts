export { Retention } from './cleanup.js'
export { History, type StoredMessage } from './message-store.js'
export { Replay } from './replay.js'
export { DurableChannels, type Query, type SchemaState } from './retention-rules.js'
