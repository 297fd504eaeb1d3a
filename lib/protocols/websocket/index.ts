export { WebSocketServer } from './server.js'
