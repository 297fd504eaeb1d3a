export { EventStreamServer } from './server.js'
