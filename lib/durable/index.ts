export { Retention } from './cleanup.js'
export { History, StoredMessage } from './message-store.js'
export { Replay } from './replay.js'
export { DurableChannels, type SchemaState } from './retention-rules.js'
