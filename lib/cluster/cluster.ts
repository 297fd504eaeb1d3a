import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Bus } from '../bus/index.js'
import type { BusDeliveries, ChannelSummary, Hub, PlaceInChannel, RatedChannel } from '../channels/index.js'
import type { Closing, Connection, ConnectionFilter, ConnectionSummary } from '../clients/index.js'
import { errors } from '../errors.js'
import type { EventLog, NodeStats } from '../events/index.js'
import { isCount } from '../json-value.js'
import type { Log } from '../log.js'
import type { Paging } from '../page.js'
import { nodeChannelOf } from '../postgres/index.js'
import type { ChannelSync, Presence } from '../presence/index.js'
import type { Notification } from '../publishing/index.js'
import { VERSION } from '../version.js'
import { isBoolean, isChannels, isRatedChannels } from './answer-checks.js'
import { ConnectionList, type Disconnected } from './connection-list.js'
import { type DeliveryCounts, NodeChannel } from './node-channel.js'
import { type FeedListener, isPast, isStats, NodeFeed, type NodeMonitor, type NodePast } from './node-feed.js'
import { decode, encode } from './node-message.js'
import { OtherBuses } from './other-buses.js'
import { type NodeSessions, OwnNode } from './own-node.js'
import { BEATS } from './peers.js'
import { PresenceExchange } from './presence-exchange.js'
import type { Scope } from './scope.js'

/** A node, as of its last heartbeat. */
export interface NodeSummary {
  id: string
  hostname: string
  pid: number
  version: string
  /** ISO 8601, as `lastSeen`. */
  startedAt: string
  lastSeen: string
  /** Open websockets and event streams at the last heartbeat. */
  connections: number
  /** Whether this is the node that answers. */
  self: boolean
}

/** A node, as `GET /nodes` shows it. */
export interface NodeStatsSummary extends NodeSummary {
  stats: NodeStats | null
}

/** The result of a confirmed publication. */
export interface Delivery {
  /** The number of clients that it was written to, on all nodes; the sum, for several messages or channels. */
  delivered: number
  /** The number of nodes that answered. */
  nodes: number
  /** The ids of the nodes that did not answer in time. */
  missing: string[]
}

export interface ClusterOptions {
  /** This node's id: see newNodeId. */
  node: string
  listenChannel: string
  /** How long a node may be silent before it is regarded as gone, in milliseconds. */
  nodeTimeout: number
  /** What carries the messages between nodes. */
  bus: Bus
  /** What carries them for nodes that have no other bus. */
  notifyBus: Pick<Bus, 'tell'>
  events: EventLog
  /** Whether this node listens. */
  listening: () => boolean
  connections: Iterable<Connection> & { readonly size: number }
  hub: Pick<Hub, 'summary' | 'rated'>
  presence: Presence
  sessions: NodeSessions
  deliveries: DeliveryCounts
  /** Undefined if the database is the bus. */
  busDeliveries: BusDeliveryCounts | undefined
  log: Log
}

/** Counts the clients of this node that messages of the bus were delivered to. */
export interface BusDeliveryCounts extends Pick<BusDeliveries, 'of'> {
  /** Where the messages stand that were published with keys a moment ago. */
  placesOf: (keys: readonly string[]) => Promise<PlaceInChannel[]>
}

/** The servers that share a database: lists and closes their connections, and counts deliveries. */
export class Cluster {
  /** The database channel on which the nodes communicate. */
  readonly channel: string
  readonly #options: ClusterOptions
  readonly #own: OwnNode
  readonly #channel: NodeChannel
  readonly #connections: ConnectionList
  readonly #presence: PresenceExchange
  readonly #feed: NodeFeed
  /** The nodes that have another bus. */
  readonly others: OtherBuses
  readonly #startedAt = Date.now()
  #monitor: NodeMonitor | undefined
  readonly #requireMonitor = (): NodeMonitor => this.#monitor!

  constructor(options: ClusterOptions) {
    this.#options = options
    const { node, bus, listening, nodeTimeout, presence, deliveries, log } = options
    this.channel = nodeChannelOf(options.listenChannel)
    this.#presence = new PresenceExchange({
      node,
      presence,
      bus,
      read: (channels, nodes) => this.#channel.ask('members', { channels }, nodes),
      // Shorter than the time between heartbeats, so that each heartbeat may cause a request.
      interval: nodeTimeout / BEATS / 2
    })
    this.#own = new OwnNode({
      ...options,
      members: this.#presence.channels,
      monitor: this.#requireMonitor
    })
    this.#feed = new NodeFeed({
      monitor: this.#requireMonitor,
      ask: (stats) => this.#channel.askFeed(stats),
      tell: (text) => this.#channel.tellFeed(text)
    })
    this.others = new OtherBuses({
      bus,
      timeout: nodeTimeout,
      isPeer: (id) => this.#channel.has(id),
      tell: () => {
        const text = encode({
          from: node,
          type: 'elsewhere',
          bus: bus.name,
          hostname: hostname(),
          pid: process.pid
        })
        options.notifyBus.tell('all', [text]).catch(() => {})
      },
      events: options.events,
      log
    })
    this.#channel = new NodeChannel({
      node,
      timeout: nodeTimeout,
      state: () => this.#state(),
      bus,
      ready: () => listening() && bus.up,
      answer: (question, args) => this.#own.answer(question, args),
      deliveries,
      presence: presence.enabled ? this.#presence : undefined,
      feed: this.#feed,
      others: this.others,
      log
    })
    this.#connections = new ConnectionList(this.#channel, this.#own)
  }

  /** To be called before this node starts, with what it tells of itself. */
  attach(monitor: NodeMonitor): void {
    this.#monitor = monitor
  }

  /** This node's id. */
  get id(): string {
    return this.#channel.id
  }

  /** The members of presence channels on all nodes. */
  get members(): ChannelSync {
    return this.#presence.channels
  }

  /** Takes what the bus calls `told` with. */
  receive(payload: string): void {
    this.#channel.receive(payload)
  }

  /** Takes what nodes without a bus tell through the database, if this node has one. */
  overhear(payload: string): void {
    const message = decode(payload)
    if (message !== undefined && message.from !== this.id) this.others.heard(message)
  }

  /** Announces this node. Call it whenever this node starts to listen, or the bus is restored. */
  hello(): Promise<void> {
    this.#presence.channels.interrupted()
    this.others.start()
    return this.#channel.hello()
  }

  /** Announces that this node leaves. */
  goodbye(): Promise<void> {
    this.#feed.stop()
    this.#presence.stop()
    this.others.stop()
    return this.#channel.goodbye()
  }

  /** The nodes, this one first. @throws NodesUnavailable (503) while this node does not listen */
  nodes(): NodeSummary[] {
    this.#channel.requireReady()
    const self = { id: this.#channel.id, lastSeen: Date.now(), ...this.#state() }
    return [self, ...this.#channel.peers].map((node) => ({
      id: node.id,
      hostname: node.hostname,
      pid: node.pid,
      version: node.version,
      startedAt: new Date(node.startedAt).toISOString(),
      lastSeen: new Date(node.lastSeen).toISOString(),
      connections: node.connections,
      self: node.id === this.#channel.id
    }))
  }

  /**
   * The same, each with its figures; null for a node of an older release, or one that has not answered in time.
   * @throws NodesUnavailable (503)
   */
  async nodesWithStats(): Promise<NodeStatsSummary[]> {
    const nodes = this.nodes()
    const answers = await this.#channel.ask('stats', {}, this.#telling)
    const all = [this.#requireMonitor().latest(), ...answers.read(isStats)]
    const stats = new Map(all.map((one) => [one.node, one]))
    return nodes.map((node) => ({ ...node, stats: stats.get(node.id) ?? null }))
  }

  /**
   * What the other nodes have kept: their last events, and the figures of the last ten minutes.
   * @throws NodesUnavailable (503)
   */
  async past(onMissing?: (nodes: string[]) => void): Promise<NodePast[]> {
    const answers = await this.#channel.ask('past', {}, this.#telling)
    return answers.read(isPast, onMissing)
  }

  /**
   * Calls a listener with what the other nodes tell from now on.
   * @returns a function that ends this
   */
  follow(listener: FeedListener): () => void {
    return this.#feed.follow(listener)
  }

  /** The other nodes that tell their events and figures. */
  get #telling(): string[] {
    return this.#channel.peers.filter(({ tells }) => tells === true).map(({ id }) => id)
  }

  /** The channels that clients of all nodes have joined. @throws NodesUnavailable (503) */
  async channels({ onMissing }: Scope): Promise<ChannelSummary[]> {
    const answers = await this.#channel.ask('channels', {})
    const others = answers.read(isChannels, onMissing)
    const merged = new Map<string, ChannelSummary>()
    for (const summary of [this.#own.channels(), ...others].flat()) {
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

  /**
   * The same with rates. Nodes that do not know theirs count as zero.
   * @throws NodesUnavailable (503) for the scope `cluster`
   */
  async ratedChannels({ scope, onMissing }: Scope): Promise<Iterable<RatedChannel>> {
    if (scope !== 'cluster') return this.#own.ratedChannels()
    const answers = await this.#channel.ask('channels', {})
    const merged = new Map<string, RatedChannel>()
    for (const channels of [this.#own.ratedChannels(), ...answers.read(isRatedChannels, onMissing)]) {
      for (const summary of channels) {
        const { channel, connections, readers, writers, rate = null } = summary
        const sum = merged.get(channel)
        if (sum === undefined) merged.set(channel, { channel, connections, readers, writers, rate })
        else {
          sum.connections += connections
          sum.readers += readers
          sum.writers += writers
          if (rate !== null) sum.rate = (sum.rate ?? 0) + rate
        }
      }
    }
    return merged.values()
  }

  /** See ConnectionList.list. */
  connections(filter: ConnectionFilter, options: Scope & Paging): Promise<ConnectionSummary[]> {
    return this.#connections.list(filter, options)
  }

  /** See ConnectionList.disconnect. */
  disconnect(filter: ConnectionFilter, closing: Partial<Closing>, dryRun?: boolean): Promise<Disconnected> {
    return this.#connections.disconnect(filter, closing, dryRun)
  }

  /** The public part by which the sessions of another node are recognized; undefined if the node is not known. */
  sessionsOf(node: string): string | undefined {
    return this.#channel.peer(node)?.sessions
  }

  /** Whether there are nodes of an older release, which do not number the commands that they forward. */
  get outdated(): boolean {
    return this.#channel.peers.some(({ sessions }) => sessions === undefined)
  }

  /**
   * Forwards commands to a session of another node.
   * @returns whether the node and the session exist
   * @throws NodesUnavailable (503)
   */
  async commands(node: string, args: object): Promise<boolean> {
    this.#channel.requireReady()
    if (!this.#channel.has(node)) return false
    const answers = await this.#channel.ask('commands', args, node)
    const [found] = answers.read(isBoolean, () => {
      throw new errors.NodesUnavailable('the node that has the session did not answer')
    })
    return found ?? false
  }

  /**
   * Publishes notifications, and makes all nodes count their deliveries.
   * @param publish publishes notifications in a transaction that contains nothing else
   */
  async confirm(
    notifications: readonly Notification[],
    publish: (notifications: Notification[]) => Promise<void>
  ): Promise<Delivery> {
    const { busDeliveries } = this.#options
    if (busDeliveries !== undefined) return this.#confirmOverBus(busDeliveries, notifications, publish)
    const answers = await this.#channel.count((begin, end) =>
      publish([this.#notification(begin), ...notifications, this.#notification(end)])
    )
    const missing: string[] = []
    const counts = answers.read(isCount, (nodes) => missing.push(...nodes))
    return { delivered: counts.reduce((sum, count) => sum + count, 0), nodes: counts.length, missing }
  }

  /**
   * Publishes notifications, and asks all nodes to how many clients they have delivered them. Messages of raw channels do not
   * come over the bus, and are not counted.
   */
  async #confirmOverBus(
    busDeliveries: BusDeliveryCounts,
    notifications: readonly Notification[],
    publish: (notifications: Notification[]) => Promise<void>
  ): Promise<Delivery> {
    const keyed = notifications.map((one) => ({ ...one, key: one.key ?? `${randomUUID()}` }))
    await publish(keyed)
    const places = await busDeliveries.placesOf(keyed.map(({ key }) => key))
    const [own, answers] = await Promise.all([
      busDeliveries.of(places),
      this.#channel.ask('delivered', { places: places.map(({ channel, position }) => [channel, position]) })
    ])
    const missing: string[] = []
    const counts = [own, ...answers.read(isCount, (nodes) => missing.push(...nodes))]
    return { delivered: counts.reduce((sum, count) => sum + count, 0), nodes: counts.length, missing }
  }

  #state() {
    const { nodeTimeout, connections, sessions, presence } = this.#options
    return {
      hostname: hostname(),
      pid: process.pid,
      version: VERSION,
      startedAt: this.#startedAt,
      connections: connections.size,
      timeout: nodeTimeout,
      ...(presence.enabled && this.#presence.state),
      sessions: sessions.sessions,
      tells: true
    }
  }

  #notification(payload: string): Notification {
    return { channel: '', payload, databaseChannel: this.channel }
  }
}
