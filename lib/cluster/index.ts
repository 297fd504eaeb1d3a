export { type Delivery, type Disconnected, type NodeSummary, Nodes, type Scope } from './cluster.js'
