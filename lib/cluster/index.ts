export { Cluster, type Delivery, type NodeStatsSummary, type NodeSummary, type Scope } from './cluster.js'
export type { Disconnected } from './connection-list.js'
export { newNodeId } from './node-channel.js'
export type { FeedListener, NodeMonitor, NodePast } from './node-feed.js'
