export { type Delivery, type Disconnected, type NodeSummary, Nodes, type Scope } from './cluster.js'
export { newNodeId } from './node-channel.js'
