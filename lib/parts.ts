import { Authorizer, RevocationEvents, RevocationList } from './auth/index.js'
import { type Bus, NatsBus, NotifyBus, prefixOf } from './bus/index.js'
import {
  AudienceChannels,
  BusChannels,
  BusDeliveries,
  ChannelOrder,
  Hub,
  IncomingQueue,
  ListenedChannels,
  Losses,
  RawChannels
} from './channels/index.js'
import { CatchUp, Clients } from './clients/index.js'
import { Cluster, newNodeId, nodeNotifications } from './cluster/index.js'
import {
  BusWatch,
  ChannelHistory,
  ChannelReads,
  Cleanup,
  MessageStore,
  Replay,
  RetentionRules,
  StoredMessages,
  Turns
} from './durable/index.js'
import { EventLog } from './events/index.js'
import type { GatewayOptions } from './gateway-options.js'
import { NotificationQueueUsage } from './listener/index.js'
import { isReserved, type Message } from './messages/index.js'
import { Metrics } from './metrics.js'
import { nodeChannelOf, SEQUENCER_CHANNEL } from './postgres/index.js'
import { type ChannelSync, JoinLeavePush, Presence } from './presence/index.js'
import { CentrifugoServer, Emulation } from './protocols/centrifugo/index.js'
import { EventStreamServer } from './protocols/event-stream/index.js'
import type { Core } from './protocols/index.js'
import { WebSocketServer } from './protocols/websocket/index.js'
import { Publisher } from './publishing/index.js'
import { Sequencer } from './sequencer/index.js'

/** The parts of a running server. */
export interface Parts {
  readonly options: GatewayOptions
  readonly metrics: Metrics
  readonly events: EventLog
  readonly losses: Losses
  readonly hub: Hub
  readonly incoming: IncomingQueue
  readonly durable: RetentionRules
  readonly history: MessageStore
  readonly reads: ChannelReads
  readonly channelHistory: ChannelHistory
  readonly replay: Replay
  readonly retention: Cleanup
  readonly sequencer: Sequencer
  readonly presence: Presence
  readonly publisher: Publisher
  readonly authorizer: Authorizer
  readonly revocationList: RevocationList
  readonly rawChannels: RawChannels
  readonly listened: ListenedChannels
  readonly audiences: AudienceChannels
  readonly clients: Clients
  readonly protocols: Protocols
  readonly bus: Bus
  /** What nodes send each other through the database. */
  readonly notifyBus: NotifyBus
  /** Undefined if the database is the bus. */
  readonly busWatch: BusWatch | undefined
  readonly cluster: Cluster
  /** The members of presence channels on all nodes. */
  readonly members: ChannelSync
  readonly notificationQueue: NotificationQueueUsage
}

/** Builds the parts of a server, from the bottom up. Each gets the parts that it needs. */
export function buildParts(options: GatewayOptions): Parts {
  const { query, listenChannel, listener, log } = options
  const node = newNodeId()
  const events = new EventLog(node)
  const metrics = new Metrics(node, () => gaugesOf(parts))
  const notificationQueue = new NotificationQueueUsage({ query, log })
  const losses = new Losses(metrics, events, log)
  const onUnencodable = (_message: Message, error: unknown) => losses.add('unencodable', { err: error })
  const hub = new Hub(
    (error) => log.error({ err: error }, 'a handler of pgws.subscribe() threw'),
    onUnencodable
  )
  const presence = new Presence({
    patterns: options.presenceChannels,
    onError: (error) => log.error({ err: error }, 'a presence watcher threw')
  })
  const durable = new RetentionRules(query, options.onSchema)
  const listening = () => listener.state.up
  const notifyBus = new NotifyBus({
    notify: nodeNotifications({ query, channel: nodeChannelOf(listenChannel), ready: listening }),
    up: listening
  })
  const bus: Bus =
    options.bus === undefined
      ? notifyBus
      : new NatsBus({
          servers: options.bus,
          credentials: options.busCredentials,
          ca: options.busCa,
          prefix: () =>
            options.busPrefix ??
            prefixOf({ secret: durable.secret ?? '', epoch: durable.epoch, oid: durable.oid }, listenChannel),
          node,
          log
        })
  const order = bus.announces ? new ChannelOrder() : undefined
  const busDeliveries = order && new BusDeliveries(order)
  const storedMessages = new StoredMessages(durable, (reason, fields) => losses.add(reason, fields))
  // Half of the pool is left to everything else.
  const turns = new Turns(Math.max(1, Math.floor(options.poolSize / 2)))
  const history = new MessageStore(query, storedMessages, turns)
  const reads = new ChannelReads(query, storedMessages, turns, options.maxHistoryBytes)
  const channelHistory = new ChannelHistory({
    history,
    reads,
    durable,
    maxHistoryBytes: options.maxHistoryBytes
  })
  const incoming = new IncomingQueue({
    listenChannel,
    deliver: (message) => hub.deliver(message),
    wanted: (channel) => hub.hasListeners(channel),
    onGap: () => replay.gapFound(),
    replays: options.checkListenerInterval > 0 || bus.announces,
    order,
    ...(busDeliveries && { onDelivered: (position, delivered) => busDeliveries.add(position, delivered) }),
    resolve: (references) => history.resolve(references),
    onMessage: (sentAt) => {
      metrics.notifications.inc()
      if (sentAt === undefined) return
      const seconds = Math.max(0, Date.now() / 1000 - sentAt)
      metrics.deliverySeconds.observe(seconds)
      metrics.deliveryTimes.record(seconds)
    },
    onLost: (reason, reference, error) => {
      losses.add(reason, { err: error, table: reference?.table, position: reference?.position })
      if (reference !== undefined && reference.table !== 'large') replay.sendGap(reference)
    }
  })
  const replay = new Replay({
    history: bus.announces
      ? {
          catchUp: () => history.catchUp(),
          timeline: () => history.timeline(),
          latest: () => history.lastPlace(),
          readAll: (after) => history.readLog(after),
          resolve: (references) => history.resolve(references),
          trimmedSince: (position) => history.trimmedSince(position)
        }
      : history,
    durable,
    incoming,
    hub,
    losses,
    log,
    listening: () => listener.state.up,
    onHealed: () => {
      metrics.healedGaps.inc()
      events.add('healed-gap', {
        text: 'notifications were missing; the messages of durable channels were read from the database'
      })
    }
  })
  const rawChannels = new RawChannels({
    patterns: options.rawChannels,
    listenChannel,
    metaChannel: options.metaChannel,
    listen: (channel, handler) => listener.listen(channel, handler, { now: true }),
    deliver: (channel, text) => {
      metrics.notifications.inc()
      if (isReserved(text)) losses.add('reserved')
      else incoming.count(hub.deliver({ channel, text, raw: true }))
    }
  })
  const listened = new ListenedChannels({
    raw: rawChannels,
    bus: order && new BusChannels({ bus, order, latest: () => history.lastPlace() }),
    presence: {
      has: (channel) => presence.has(channel),
      join: (channels) => cluster.members.join(channels)
    }
  })
  const busWatch = order && new BusWatch({ replay, byBus: () => history.byBus(), events, log })
  const retention = new Cleanup({ query, durable, events, log })
  const sequencer = new Sequencer({
    ...options,
    node,
    query: options.sequencerQuery,
    bus,
    epoch: () => durable.epoch,
    listen: (handler) => listener.listen(SEQUENCER_CHANNEL, handler),
    installed: () => durable.installed,
    mixed: () => cluster.others.withoutBus,
    events
  })
  const authorizer = new Authorizer({
    ...options,
    onError: (error) => log.warn({ err: error }, 'authorizeFunction failed')
  })
  const publisher = new Publisher({
    ...options,
    ready: () => durable.known && listener.state.up,
    durable,
    rawChannels,
    metrics
  })
  const joinLeavePush = new JoinLeavePush(presence, onUnencodable)
  const clients = new Clients({
    ...options,
    hub,
    publisher,
    catchUp: new CatchUp({ reads, durable, losses, rawChannels }),
    presence,
    joinLeavePush,
    revocations: options.revocations,
    metrics,
    events,
    node
  })
  const core: Core = {
    clients,
    publisher,
    hub,
    listened,
    verifyToken: options.verifyToken,
    revocations: options.revocations,
    authorizer,
    history,
    reads,
    durable,
    presence,
    members: { summary: (channel) => cluster.members.summary(channel) },
    joinLeavePush,
    limits: options,
    log
  }
  const emulation = new Emulation(node)
  const protocols = protocolsOf(core, emulation)
  const revocationEvents = new RevocationEvents(events)
  const revocationList = new RevocationList({
    query,
    revocations: options.revocations,
    installed: () => durable.installed,
    onChange: () => {
      revocationEvents.read(options.revocations.size)
      clients.closeRevoked()
      for (const protocol of Object.values(protocols)) protocol.tokensRevoked()
    },
    log
  })
  const cluster = new Cluster({
    node,
    ...options,
    bus,
    notifyBus,
    listening,
    events,
    connections: clients.connections,
    hub,
    presence,
    sessions: emulation,
    deliveries: incoming,
    busDeliveries: busDeliveries && {
      get floor() {
        return incoming.floor ?? 0
      },
      placesOf: (after, keys) => history.places(after, keys),
      of: (places) => busDeliveries.of(places)
    }
  })
  emulation.attach(cluster)
  const audiences = new AudienceChannels({
    endpoints: options.endpoints,
    deliver: (message) => hub.deliver(message),
    onNotification: () => metrics.notifications.inc(),
    onMalformed: (databaseChannel) => losses.add('malformed', { databaseChannel })
  })
  const parts: Parts = {
    options,
    metrics,
    events,
    losses,
    hub,
    incoming,
    durable,
    history,
    reads,
    channelHistory,
    replay,
    retention,
    sequencer,
    presence,
    publisher,
    authorizer,
    revocationList,
    rawChannels,
    listened,
    audiences,
    clients,
    protocols,
    bus,
    notifyBus,
    busWatch,
    cluster,
    members: cluster.members,
    notificationQueue
  }
  return parts
}

/** The protocols that clients speak, one line each. */
function protocolsOf(core: Core, emulation: Emulation) {
  return {
    webSockets: new WebSocketServer(core),
    eventStreams: new EventStreamServer(core),
    centrifugo: new CentrifugoServer(core, emulation)
  }
}

export type Protocols = Readonly<ReturnType<typeof protocolsOf>>

/** The current values of the gauges. */
function gaugesOf(parts: Parts) {
  const { clients, hub, publisher, notificationQueue, sequencer } = parts
  const { up, reconnects, gapMilliseconds, lastProvenAlive } = parts.options.listener.state
  return {
    connections: clients.connections.transports,
    channels: hub.joinedChannels,
    pausedSockets: publisher.pausedSenders + clients.pace.throttled,
    publishQueueBytes: publisher.queuedBytes,
    messagesSent: clients.sent.messages,
    bytesSent: clients.sent.bytes,
    bufferedBytes: clients.flow.totalBytes,
    fallenBehind: clients.flow.fallenBehind,
    listenerUp: up,
    listenerReconnects: reconnects,
    listenerGap: gapMilliseconds / 1000,
    listenerHeartbeat: lastProvenAlive === undefined ? undefined : lastProvenAlive / 1000,
    notificationQueueUsage: notificationQueue.usage,
    outboxBytes: sequencer.state.bytes,
    sequencer: sequencer.state.sequencer
  }
}
