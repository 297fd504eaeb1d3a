export {
  Cluster,
  type Delivery,
  type Disconnected,
  type NodeStatsSummary,
  type NodeSummary,
  type Scope
} from './cluster.js'
export { newNodeId } from './node-channel.js'
export type { FeedListener, NodeMonitor, NodePast } from './node-feed.js'
