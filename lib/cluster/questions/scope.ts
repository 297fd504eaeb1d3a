/** Which nodes are asked. */
export interface Scope {
  /** `local`: this node; `cluster`: all nodes. Default: `local`. */
  scope?: 'local' | 'cluster' | undefined
  /** Is called with the ids of the nodes that did not answer in time, if there are any. */
  onMissing?: ((nodes: string[]) => void) | undefined
}
