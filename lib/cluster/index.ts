export { Cluster, type Delivery, type Disconnected, type NodeSummary, type Scope } from './cluster.js'
export { newNodeId } from './node-channel.js'
