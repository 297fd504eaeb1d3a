import { hostname } from 'node:os'
import type { Bus } from '../bus/index.js'
import type { ChannelFilter, ChannelSummary, Hub, RatedChannel } from '../channels/index.js'
import type { Closing, Connection, ConnectionFilter, ConnectionSummary } from '../clients/index.js'
import { errors } from '../errors.js'
import type { EventLog, NodeStats } from '../events/index.js'
import type { Log } from '../log.js'
import type { Paging } from '../page.js'
import { nodeChannelOf } from '../postgres/index.js'
import type { ChannelSync, Presence } from '../presence/index.js'
import type { Notification } from '../publishing/index.js'
import { VERSION } from '../version.js'
import { decode, encode } from './messages/node-message.js'
import { type DeliveryCounts, NodeChannel } from './node-channel.js'
import { type FeedListener, isPast, isStats, NodeFeed, type NodeMonitor, type NodePast } from './node-feed.js'
import { OtherBuses } from './other-buses.js'
import { type NodeSessions, OwnNode } from './own-node.js'
import { BEATS } from './peers.js'
import { PresenceExchange } from './presence-exchange.js'
import { isBoolean } from './questions/answer-checks.js'
import { ChannelLists } from './questions/channel-lists.js'
import { type BusDeliveryCounts, Confirmations, type Delivery } from './questions/confirmations.js'
import { ConnectionList, type Disconnected } from './questions/connection-list.js'
import type { Scope } from './questions/scope.js'

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

export interface ClusterOptions {
  /** This node's id: see newNodeId. */
  node: string
  listenChannel: string
  /** How long a node may be silent before it is regarded as gone, in milliseconds. */
  nodeTimeout: number
  /** What carries the messages between nodes. */
  bus: Bus
  /** What carries them for nodes that have no other bus. */
  notifyBus: Pick<Bus, 'send'>
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

/** The servers that share a database: lists and closes their connections, and counts deliveries. */
export class Cluster {
  /** The database channel on which the nodes communicate. */
  readonly channel: string
  readonly #options: ClusterOptions
  readonly #own: OwnNode
  readonly #channel: NodeChannel
  readonly #connections: ConnectionList
  readonly #channelLists: ChannelLists
  readonly #confirmations: Confirmations
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
      send: (text) => this.#channel.sendFeed(text)
    })
    this.others = new OtherBuses({
      bus,
      timeout: nodeTimeout,
      isPeer: (id) => this.#channel.has(id),
      announce: () => {
        const text = encode({
          from: node,
          type: 'elsewhere',
          bus: bus.name,
          hostname: hostname(),
          pid: process.pid
        })
        options.notifyBus.send('all', [text]).catch(() => {})
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
    this.#channelLists = new ChannelLists(this.#channel, this.#own)
    this.#confirmations = new Confirmations({
      nodes: this.#channel,
      databaseChannel: this.channel,
      busDeliveries: options.busDeliveries
    })
  }

  /** To be called before this node starts, with the source of its events and figures. */
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

  /** Takes what the bus calls `received` with. */
  receive(payload: string): void {
    this.#channel.receive(payload)
  }

  /**
   * Takes what nodes send through the database, if this node has a bus: marks of publications on raw channels, and what nodes
   * without a bus say of themselves.
   */
  overhear(payload: string): void {
    const message = decode(payload)
    if (message === undefined) return
    if (message.type === 'begin' || message.type === 'end') this.#channel.receiveMark(message)
    else if (message.from !== this.id) this.others.heard(message)
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
    const answers = await this.#channel.ask('stats', {}, this.#current)
    const all = [this.#requireMonitor().latest(), ...answers.read(isStats)]
    const stats = new Map(all.map((one) => [one.node, one]))
    return nodes.map((node) => ({ ...node, stats: stats.get(node.id) ?? null }))
  }

  /**
   * What the other nodes have kept: their last events, and the figures of the last ten minutes.
   * @throws NodesUnavailable (503)
   */
  async past(onMissing?: (nodes: string[]) => void): Promise<NodePast[]> {
    const answers = await this.#channel.ask('past', {}, this.#current)
    return answers.read(isPast, onMissing)
  }

  /**
   * Calls a listener with the events and figures of the other nodes from now on.
   * @returns a function that ends this
   */
  follow(listener: FeedListener): () => void {
    return this.#feed.follow(listener)
  }

  /** The other nodes that send their events and figures. */
  get #current(): string[] {
    return this.#channel.peers.filter(({ tells }) => tells === true).map(({ id }) => id)
  }

  /** See ChannelLists.all. */
  channels(scope: Scope): Promise<ChannelSummary[]> {
    return this.#channelLists.all(scope)
  }

  /** See ChannelLists.rated. */
  ratedChannels(scope: Scope, filter: ChannelFilter): Promise<Iterable<RatedChannel>> {
    return this.#channelLists.rated(scope, filter)
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
   * Publishes notifications, and finds out to how many clients of all nodes they were delivered.
   * @param publish publishes notifications in a transaction that contains nothing else
   * @throws what `publish` throws
   */
  confirm(
    notifications: readonly Notification[],
    publish: (notifications: Notification[]) => Promise<void>
  ): Promise<Delivery> {
    return this.#confirmations.publish(notifications, publish)
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
}
