export { type Announcement, readAnnouncement } from './announcement.js'
export { binaryEnvelope, envelope, type Sender, senderOf, showsClaim } from './envelope.js'
export type { Message } from './message.js'
export {
  largeMessage,
  messageId,
  parseMessageId,
  type Reference,
  readNotification,
  storedMessage
} from './notification-payload.js'
export { isReserved, type PresenceMember, type PresenceSummary } from './server-events.js'
export { historyGap, serverMessage } from './server-message.js'
export { TextParts } from './text-parts.js'
