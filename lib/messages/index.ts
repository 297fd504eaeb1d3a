export {
  binaryEnvelope,
  envelope,
  NOTIFY_PAYLOAD_LIMIT,
  type Sender,
  senderOf,
  showsClaim
} from './envelope.js'
export {
  largeMessage,
  type Message,
  messageId,
  parseMessageId,
  type Reference,
  readNotification,
  storedMessage
} from './message.js'
export { historyGap, isReserved, serverMessage } from './server-events.js'
