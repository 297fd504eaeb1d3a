/** What the base class keeps to itself. */
export interface Internals {
  uid: string
  nodesMap: Map<string, number>
  customRequests: Map<
    string,
    {
      timeout: NodeJS.Timeout
      resolve: (error: Error, responses: unknown[]) => void
      missingUids: Set<string>
      responses: unknown[]
    }
  >
}

export interface Namespace {
  name: string
  sockets: Map<string, { packet(packet: object, opts?: object): void }>
  server: {
    opts: {
      connectionStateRecovery?: { maxDisconnectionDuration?: number }
      pingInterval?: number
      pingTimeout?: number
    }
  }
}
