export { textFrame } from './frames.js'
export { StreamConnection } from './stream-connection.js'
export { type AcceptedSocket, type RawMessage, WebSocketConnection } from './websocket.js'
