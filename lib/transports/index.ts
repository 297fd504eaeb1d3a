export { textFrame } from './frames.js'
export { StreamConnection } from './stream-connection.js'
export { PAUSED, type Pausable, type RawMessage, WebSocketConnection } from './websocket.js'
