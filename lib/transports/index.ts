export { nextDrain } from './drained.js'
export { binaryFrame, textFrame } from './frames.js'
export { StreamConnection } from './stream-connection.js'
export { type AcceptedSocket, type RawMessage, WebSocketConnection, writeFrames } from './websocket.js'
