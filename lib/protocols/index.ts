export { type Core, Protocol } from './protocol.js'
