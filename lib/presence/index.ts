export { JoinLeavePush } from './join-leave-push.js'
export { NodeSync, type PresencePart } from './node-sync.js'
export { type ChannelPresence, isSameMember, MAX_LISTED, Presence } from './presence.js'
