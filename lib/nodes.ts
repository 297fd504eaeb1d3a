import { hostname } from 'node:os'
import type { Answers } from './answers.js'
import { Cluster } from './cluster.js'
import { clusterChannel } from './cluster-message.js'
import type { Connection } from './connection.js'
import {
  type Closing,
  type ConnectionFilter,
  type ConnectionSummary,
  nodeOf,
  readClosing,
  readClosingFilter,
  readFilter,
  select,
  summaryOf
} from './connection-list.js'
import type { Query } from './durable-channels.js'
import { NOTIFY_PAYLOAD_LIMIT } from './envelope.js'
import { errors } from './errors.js'
import type { ChannelSummary } from './hub.js'
import { type Notification, Publisher } from './publisher.js'
import { VERSION } from './version.js'

/** A node, as the control plane shows it. */
export interface NodeSummary {
  id: string
  hostname: string
  pid: number
  version: string
  /** ISO 8601, as `lastSeen`. */
  startedAt: string
  lastSeen: string
  /** Open sockets and event streams, as last told. */
  connections: number
  /** The node that answers. */
  self: boolean
}

/** Who is asked: this node, or all of them. */
export interface Scope {
  scope?: 'local' | 'cluster' | undefined
  /** Told which nodes did not answer in time, if any. */
  onMissing?: ((nodes: string[]) => void) | undefined
}

/** How many connections were closed. */
export interface Disconnected {
  closed: number
  /** The nodes that did not answer in time; their connections may be closed, too. */
  missing: string[]
}

/** Who got a publication. */
export interface Delivery {
  /** To how many clients it was written, on all nodes; of several messages, or channels, the sum. */
  delivered: number
  /** How many nodes answered. */
  nodes: number
  /** Those that did not in time. */
  missing: string[]
}

export interface NodesOptions {
  listenChannel: string
  /** After how much silence a node is gone, in milliseconds. */
  nodeTimeout: number
  query: Query
  /** Whether this node listens. */
  ready: () => boolean
  connections: Iterable<Connection> & { readonly size: number }
  channels: () => ChannelSummary[]
  /** See ClusterOptions. */
  begin: (publication: string) => void
  end: (publication: string, counted: (delivered: number) => void) => void
  log: {
    debug(fields: object, message: string): void
    info(fields: object, message: string): void
  }
}

/** The nodes behind one database as one: what is connected to them, and who got a message. */
export class Nodes {
  /** The database channel to listen to. */
  readonly channel: string
  readonly #options: NodesOptions
  readonly #cluster: Cluster
  readonly #startedAt = Date.now()

  constructor(options: NodesOptions) {
    this.#options = options
    const { query, ready, nodeTimeout, begin, end, log } = options
    this.channel = clusterChannel(options.listenChannel)
    const publisher = new Publisher({
      notify: async (notifications) => {
        const payloads = notifications.map(({ payload }) => payload)
        await query('select count(pg_notify($1, payload)) from unnest($2::text[]) as payload', [
          this.channel,
          payloads
        ])
      },
      limit: () => NOTIFY_PAYLOAD_LIMIT - 1,
      repeatable: () => false,
      ready,
      timeout: 0,
      onBatch() {}
    })
    this.#cluster = new Cluster({
      timeout: nodeTimeout,
      state: () => this.#state(),
      publish: (payloads) => publisher.publish(payloads.map((payload) => this.#notification(payload))),
      ready,
      answer: (question, args) => this.#answer(question, args),
      begin,
      end,
      log
    })
  }

  /** Takes what came on the channel. */
  receive(payload: string): void {
    this.#cluster.receive(payload)
  }

  /** To be called whenever this node begins to listen. */
  hello(): void {
    this.#cluster.hello()
  }

  /** Says that this node is gone. */
  goodbye(): Promise<void> {
    return this.#cluster.goodbye()
  }

  /** @throws NodesUnavailable (503) while this node does not listen */
  nodes(): NodeSummary[] {
    this.#cluster.requireReady()
    const self = { id: this.#cluster.id, lastSeen: Date.now(), ...this.#state() }
    return [self, ...this.#cluster.members].map((node) => ({
      id: node.id,
      hostname: node.hostname,
      pid: node.pid,
      version: node.version,
      startedAt: new Date(node.startedAt).toISOString(),
      lastSeen: new Date(node.lastSeen).toISOString(),
      connections: node.connections,
      self: node.id === this.#cluster.id
    }))
  }

  /** The channels that clients of all nodes are connected to. */
  async channels({ onMissing }: Scope): Promise<ChannelSummary[]> {
    const answers = await this.#cluster.ask('channels', {})
    const merged = new Map<string, ChannelSummary>()
    const others = collect<ChannelSummary[]>(answers, isChannels, onMissing)
    for (const summary of [this.#options.channels(), ...others].flat()) {
      const { channel, connections, readers, writers } = summary
      const sum = merged.get(channel)
      if (sum === undefined) merged.set(channel, { channel, connections, readers, writers })
      else {
        sum.connections += connections
        sum.readers += readers
        sum.writers += writers
      }
    }
    return [...merged.values()]
  }

  /** @throws BadQuery (400), NodesUnavailable (503) */
  async connections(filter: ConnectionFilter, { scope, onMissing }: Scope): Promise<ConnectionSummary[]> {
    const wanted = readFilter(filter)
    if (scope !== 'cluster') return this.#list(wanted)
    const answers = await this.#cluster.ask('connections', wanted)
    return [this.#list(wanted), ...collect<ConnectionSummary[]>(answers, isConnections, onMissing)].flat()
  }

  /** @throws BadQuery (400), NodesUnavailable (503) */
  async disconnect(filter: ConnectionFilter, closing: Partial<Closing>): Promise<Disconnected> {
    const wanted = readClosingFilter(filter)
    const { code, reason } = readClosing(closing)
    const node = wanted.id === undefined ? undefined : nodeOf(wanted.id)
    if (node === this.#cluster.id) return { closed: this.#disconnect(wanted, code, reason), missing: [] }
    this.#cluster.requireReady()
    if (wanted.id !== undefined && (node === undefined || !this.#cluster.has(node))) {
      return { closed: 0, missing: [] }
    }
    const asked = this.#cluster.ask('disconnect', { ...wanted, code, reason }, node)
    // Whatever the others do, these are closed at once.
    let closed = this.#disconnect(wanted, code, reason)
    const missing: string[] = []
    for (const count of collect<number>(await asked, isCount, (nodes) => missing.push(...nodes)))
      closed += count
    return { closed, missing }
  }

  /**
   * Publishes so that all nodes count to how many clients they deliver it.
   * @param publish publishes notifications in one transaction that has no others
   */
  async confirm(
    notifications: readonly Notification[],
    publish: (notifications: Notification[]) => Promise<void>
  ): Promise<Delivery> {
    const answers = await this.#cluster.count((begin, end) =>
      publish([this.#notification(begin), ...notifications, this.#notification(end)])
    )
    const missing: string[] = []
    const counts = collect<number>(answers, isCount, (nodes) => missing.push(...nodes))
    return { delivered: counts.reduce((sum, count) => sum + count, 0), nodes: counts.length, missing }
  }

  #state() {
    const { nodeTimeout, connections } = this.#options
    return {
      hostname: hostname(),
      pid: process.pid,
      version: VERSION,
      startedAt: this.#startedAt,
      connections: connections.size,
      timeout: nodeTimeout
    }
  }

  #notification(payload: string): Notification {
    return { channel: '', payload, databaseChannel: this.channel }
  }

  /** @throws for what is no question */
  #answer(question: string, args: unknown): unknown {
    switch (question) {
      case 'channels':
        return this.#options.channels()
      case 'connections':
        return this.#list(readFilter(args))
      case 'disconnect': {
        const filter = readClosingFilter(args)
        const { code, reason } = readClosing(args as object)
        return this.#disconnect(filter, code, reason)
      }
      default:
        throw new errors.BadQuery('an unknown question')
    }
  }

  #list(filter: ConnectionFilter): ConnectionSummary[] {
    const { id } = this.#cluster
    return [...select(this.#options.connections, id, filter)].map((connection) => summaryOf(id, connection))
  }

  #disconnect(filter: ConnectionFilter, code: number, reason: string): number {
    const connections = [...select(this.#options.connections, this.#cluster.id, filter)]
    for (const connection of connections) connection.disconnect(code, reason)
    return connections.length
  }
}

/** The answers that have the right shape; tells of the nodes without one. */
function collect<Value>(
  { values, missing }: Answers,
  fits: (value: unknown) => boolean,
  onMissing: Scope['onMissing']
): Value[] {
  const wrong = [...values].filter(([, value]) => !fits(value)).map(([node]) => node)
  if (missing.length + wrong.length > 0) onMissing?.([...missing, ...wrong])
  return [...values.values()].filter(fits) as Value[]
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isChannels(value: unknown): boolean {
  return isListOf(value, ({ channel, connections, readers, writers }) => {
    return typeof channel === 'string' && [connections, readers, writers].every(isCount)
  })
}

function isConnections(value: unknown): boolean {
  return isListOf(value, ({ id, node, subject, channels, mode, since, address, bufferedBytes }) => {
    const texts = [id, node, subject ?? '', mode, since, address].every((text) => typeof text === 'string')
    return texts && isListOf(channels) && isCount(bufferedBytes)
  })
}

function isListOf(value: unknown, fits: (item: Record<string, unknown>) => boolean = () => true): boolean {
  return Array.isArray(value) && value.every((item) => item !== null && fits(item))
}
