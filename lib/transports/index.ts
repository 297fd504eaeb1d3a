export { textFrame } from './frames.js'
export { StreamConnection } from './stream-connection.js'
export { type RawMessage, WebSocketConnection } from './websocket.js'
