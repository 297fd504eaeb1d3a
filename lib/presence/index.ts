export { ChannelSync, type Line } from './channel-sync.js'
export { JoinLeavePush } from './join-leave-push.js'
export { NodeSync } from './node-sync.js'
export { type ChannelPresence, isSameMember, MAX_LISTED, Presence } from './presence.js'
