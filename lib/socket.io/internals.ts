import type { ClusterAdapterWithHeartbeat } from 'socket.io-adapter'

/** What the base class keeps to itself. */
interface Internals {
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

/** Its types say that these are private, and we need them: where nodes have names of their own, and for their timeouts. */
export function internalsOf(adapter: ClusterAdapterWithHeartbeat): Internals {
  return adapter as unknown as Internals
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
