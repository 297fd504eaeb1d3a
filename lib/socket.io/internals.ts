import type { ClusterAdapterWithHeartbeat } from 'socket.io-adapter'

/** The private members of the base class that the adapter needs. */
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

/**
 * Gives access to private members of the base class. They are the only way to set the name of a node, to list the other
 * nodes, and to change the timeout of a request.
 */
export function internalsOf(adapter: ClusterAdapterWithHeartbeat): Internals {
  return adapter as unknown as Internals
}

/** A namespace of Socket.IO, as far as the adapter uses it. */
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
