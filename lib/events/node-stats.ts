/** What a node tells of itself: `GET /nodes`, and the event `NodeStats` of `GET /events`. Counters are totals since its start. */
export interface NodeStats {
  /** The id of the node. */
  node: string
  hostname: string
  version: string
  /** ISO 8601, as `startedAt`. */
  time: string
  startedAt: string
  /** As in `GET /health`. */
  status: 'ok' | 'degraded' | 'unavailable'
  /** Why the status is not `ok`, in sentences. */
  reasons: string[]
  listener: {
    status: 'up' | 'down'
    upSince: string | null
    lastProvenAlive: string | null
    reconnects: number
  }
  pool: { status: string }
  schema: { status: string }
  /** How full the database's notification queue is, 0 to 1. */
  notificationQueue: { usage: number | null }
  /** Whether it announces what is published from SQL. */
  sequencer: boolean
  memoryBytes: number
  heapBytes: number
  /** The 99th percentile of the interval since the figures before, in milliseconds. */
  eventLoopLagMs: number
  /** Of that interval: 1 is one core. */
  cpu: number
  /** Open connections. */
  connections: number
  /** The same, by transport. */
  transports: Record<string, number>
  /** The channels that clients have joined. */
  channels: number
  /** What clients have sent. */
  receivedMessages: number
  receivedBytes: number
  /** What was sent to clients. */
  sentMessages: number
  sentBytes: number
  /** Notifications from the database. */
  notifications: number
  /** From commit to delivery, in milliseconds; null if nothing was delivered in that interval. */
  delivery: { p50Ms: number; p99Ms: number } | null
  /** Closed connections, by reason. */
  closes: Record<string, number>
  /** Refused handshakes, by the code of the error. */
  refusals: Record<string, number>
  /** Messages from the database that were given up, by reason. */
  lostMessages: Record<string, number>
  slowCatchUps: number
  /** What waits for the database. */
  publishQueueBytes: number
  /** What waits for clients. */
  bufferedBytes: number
  /** Connections that are not read for the moment. */
  pausedSockets: number
  /** The size of what was published from SQL, as the sequencer sees it; null: another node knows. */
  outboxBytes: number | null
}
