import { setTimeout as sleep } from 'node:timers/promises'
import { sentenceOf } from './cluster/index.js'
import type { SchemaState } from './durable/index.js'
import type { Parts } from './parts.js'
import type { Permission } from './schema/index.js'
import type { OutboxState } from './sequencer/index.js'

/** How long the pool may take to answer a health check, in milliseconds. */
const HEALTH_DEADLINE = 2000

/** What `GET /health` answers. Times are in ISO 8601. */
export interface Health {
  /**
   * `degraded`: the server works, but the notification queue fills up, messages were lost, a permission is missing, the bus
   * is away, or the database is read-only.
   */
  status: 'ok' | 'degraded' | 'unavailable'
  /** Why it is not `ok`, in sentences. */
  reasons: string[]
  listener: {
    status: 'up' | 'down'
    /** When the current connection started to listen. */
    upSince: string | null
    /** When a probe last proved that notifications arrive. */
    lastProvenAlive: string | null
    reconnects: number
  }
  pool: {
    /**
     * `forbidden`: the database answers, but the role lacks permissions on the schema `pgws`: grant it `pgws_server`.
     * `read-only`: the database refuses writes, so no message can be stored.
     */
    status: 'up' | 'down' | 'forbidden' | 'read-only'
  }
  /**
   * Whether this server and the schema `pgws` are compatible. `too old`: nothing is published until the schema is
   * migrated. `too new`: the server shuts down.
   */
  schema: { status: SchemaState['status'] }
  /** How full the database's notification queue is, 0 to 1. */
  notificationQueue: { usage: number | null }
  /** Why messages were lost within the last minute, except for messages that were invalid themselves. */
  delivery: { status: 'up' | 'degraded'; failures: string[] }
  /** What is published from SQL, until it is announced. */
  outbox: {
    /**
     * `held`: it is large, and cannot be emptied, because a transaction that has published, or a dump, stays open.
     * `failing`: this node is the sequencer, and cannot announce what is published.
     */
    status: 'ok' | 'held' | 'failing'
    /** Whether this node is the sequencer, which announces it. */
    sequencer: boolean
    /** Its size in the database; null: another node knows. */
    bytes: number | null
    /** How many of its tables could not be emptied the last time. */
    blocked: number
  }
  /** What carries messages between nodes. */
  bus: {
    name: 'notify' | 'nats'
    /**
     * `away`: messages are read from the database once a second. `bypassed`: the sequencer is a server without a bus, so the
     * database notifies every node.
     */
    status: 'up' | 'away' | 'bypassed'
    /** The ids of the nodes that have another bus, or none. */
    others: string[]
  }
  /** The number of open connections. */
  connections: number
  /** The largest message that a client may send, in bytes: the option `maxMessageBytes`. */
  maxMessageBytes: number
}

/** An outbox that is not emptied is large from here on, in bytes. */
const LARGE_OUTBOX = 256 * 1024 * 1024

/** Checks a server: whether the listener is alive and the pool answers. */
export async function healthOf(parts: Parts): Promise<Health> {
  const { notificationQueue, durable } = parts
  const late = sleep(HEALTH_DEADLINE, undefined, { ref: false })
  const answers = await Promise.race([Promise.all([notificationQueue.check(), durable.permission()]), late])
  return healthFrom(parts, ...(answers ?? ([undefined, 'all'] as const)))
}

/** The health as it was last known, without a question to the database. */
export function knownHealthOf(parts: Parts): Health {
  return healthFrom(parts, parts.notificationQueue.usage, parts.durable.lastPermission)
}

/**
 * @param usage how full the notification queue is; undefined: the database did not answer
 * @param permission what the server's role may do with the schema
 */
function healthFrom(parts: Parts, usage: number | undefined, permission: Permission): Health {
  const { notificationQueue, durable, losses, clients, sequencer, bus, busWatch } = parts
  const { up, upSince, lastProvenAlive, reconnects } = parts.options.listener.state
  const { failures } = losses
  const others = parts.cluster.others.nodes
  const schema = durable.state
  const schemaUsable = schema.error === undefined && permission !== 'none'
  const available = up && durable.known && schemaUsable && usage !== undefined
  const { readOnly } = notificationQueue
  const outbox = outboxOf(sequencer.state)
  const reasons = reasonsOf([
    [!up, 'the listener is not connected to the database'],
    [usage === undefined, 'the publishing connections do not answer'],
    [!durable.known, 'the server is waiting for the database since its start'],
    [schema.error !== undefined, `the schema "pgws" is ${schema.status} for this server`],
    [permission !== 'all', 'the role lacks permissions on the schema "pgws"'],
    [readOnly, 'the database refuses writes'],
    [notificationQueue.crowded, "the database's notification queue is more than half full"],
    [failures.length > 0, `messages were lost within the last minute (${failures.join(', ')})`],
    [outbox.status === 'held', 'the outbox cannot be emptied'],
    [
      busWatch?.state.failure !== undefined,
      'the bus (PGWS_BUS) is away: messages are read from the database once a second'
    ],
    [
      busWatch?.state.bypassed === true,
      'the sequencer is a server without PGWS_BUS: set it for all servers, or for none'
    ],
    [others.length > 0, sentenceOf(others.length)],
    [outbox.status === 'failing', 'what is published from SQL cannot be announced']
  ])
  return {
    status: !available ? 'unavailable' : reasons.length > 0 ? 'degraded' : 'ok',
    reasons,
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
    outbox,
    bus: {
      name: bus.name,
      status: busWatch?.state.failure !== undefined ? 'away' : busWatch?.state.bypassed ? 'bypassed' : 'up',
      others
    },
    connections: clients.connections.size,
    maxMessageBytes: parts.options.maxMessageBytes
  }
}

/** The sentences whose conditions are true. */
function reasonsOf(all: readonly (readonly [applies: boolean, sentence: string])[]): string[] {
  return all.filter(([applies]) => applies).map(([, sentence]) => sentence)
}

function outboxOf({ sequencer, bytes, blocked, failure }: OutboxState): Health['outbox'] {
  const held = blocked > 0 && bytes !== undefined && bytes > LARGE_OUTBOX
  const status = failure !== undefined ? 'failing' : held ? 'held' : 'ok'
  return { status, sequencer, bytes: bytes ?? null, blocked }
}

function isoTime(time: number | undefined): string | null {
  return time === undefined ? null : new Date(time).toISOString()
}
