import { setTimeout as sleep } from 'node:timers/promises'
import type { SchemaState } from './durable/index.js'
import type { Parts } from './parts.js'

/** How long the pool may take to answer a health check, in milliseconds. */
const HEALTH_DEADLINE = 2000

/** What the health checks show. Times are ISO 8601. */
export interface Health {
  /**
   * `degraded`: it works, but the notification queue fills up, messages were lost, a permission is missing, or the
   * database refuses writes.
   */
  status: 'ok' | 'degraded' | 'unavailable'
  listener: {
    status: 'up' | 'down'
    /** Since when it has been listening without a break. */
    upSince: string | null
    /** When it was last proven that notifications arrive. */
    lastProvenAlive: string | null
    reconnects: number
  }
  pool: {
    /**
     * `forbidden`: it answers, but its role may not use all of the schema `pgws` that it must: grant it `pgws_server`.
     * `read-only`: the database refuses writes, so that nothing can be stored.
     */
    status: 'up' | 'down' | 'forbidden' | 'read-only'
  }
  /**
   * Whether this server and the schema of durable channels fit each other. `too old`: nothing is published until it is
   * migrated. `too new`: the server ends.
   */
  schema: { status: SchemaState['status'] }
  /** How full the database's notification queue is, 0 to 1. */
  notificationQueue: { usage: number | null }
  /** Why messages were given up within the last minute, where that is no fault of theirs. */
  delivery: { status: 'up' | 'degraded'; failures: string[] }
  /** How many sockets are open. */
  connections: number
}

/** Whether a server can do its work: the listener is alive and the pool answers. */
export async function healthOf(parts: Parts): Promise<Health> {
  const { notificationQueue, durable, losses, clients } = parts
  const { up, upSince, lastProvenAlive, reconnects } = parts.options.listener.state
  const late = sleep(HEALTH_DEADLINE, undefined, { ref: false })
  const [usage, permission = 'all'] =
    (await Promise.race([Promise.all([notificationQueue.check(), durable.permission()]), late])) ?? []
  const { failures } = losses
  const schema = durable.state
  const schemaUsable = schema.error === undefined && permission !== 'none'
  const available = up && durable.known && schemaUsable && usage !== undefined
  const { readOnly } = notificationQueue
  const degraded = notificationQueue.crowded || readOnly || permission === 'some' || failures.length > 0
  return {
    status: !available ? 'unavailable' : degraded ? 'degraded' : 'ok',
    listener: {
      status: up ? 'up' : 'down',
      upSince: isoTime(upSince),
      lastProvenAlive: isoTime(lastProvenAlive),
      reconnects
    },
    pool: {
      status:
        usage === undefined ? 'down' : permission !== 'all' ? 'forbidden' : readOnly ? 'read-only' : 'up'
    },
    schema: { status: schema.status },
    notificationQueue: { usage: usage ?? null },
    delivery: { status: failures.length > 0 ? 'degraded' : 'up', failures },
    connections: clients.connections.size
  }
}

function isoTime(time: number | undefined): string | null {
  return time === undefined ? null : new Date(time).toISOString()
}
