export { PresenceEvents } from './join-leave-push.js'
export { PresenceExchange, type PresencePart } from './node-sync.js'
export { type ChannelPresence, isSameMember, MAX_LISTED, Presence } from './presence.js'
