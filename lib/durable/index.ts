export { Cleanup } from './cleanup.js'
export { MessageStore, type States, StoredMessage } from './message-store.js'
export { Replay } from './replay.js'
export { RetentionRules, type SchemaState } from './retention-rules.js'
