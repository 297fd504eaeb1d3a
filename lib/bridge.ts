import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import type { WebSocket } from 'ws'
import {
  type Access,
  Authorizer,
  type Caller,
  type Claims,
  callerOf,
  callsFunctions,
  type Mode,
  type Token
} from './auth/index.js'
import { checkChannel } from './channel-name.js'
import {
  audienceChannel,
  audienceMessage,
  type ChannelSummary,
  Hub,
  Inbox,
  isPublicChannel,
  Losses,
  RawChannels,
  readAudienceMessage
} from './channels/index.js'
import {
  CatchUp,
  Clients,
  type Closing,
  type ConnectionFilter,
  type ConnectionSummary,
  HeldAnswer,
  type Leaving,
  SHUTTING_DOWN,
  type Transport,
  type Wishes,
  whenGone
} from './clients/index.js'
import { type Delivery, type Disconnected, type NodeSummary, Nodes, type Scope } from './cluster/index.js'
import type { ResolvedOptions } from './config/index.js'
import { DurableChannels, History, Replay, Retention, type SchemaState } from './durable/index.js'
import { asBadMessage, errors, fullMessageOf } from './errors.js'
import type { Log } from './log.js'
import { isReserved, type Message, parseMessageId, senderOf } from './messages/index.js'
import { Metrics } from './metrics.js'
import {
  type Listener,
  type ListenerState,
  NotificationQueue,
  type Query,
  type Rows,
  SETTINGS_CHANNEL
} from './postgres/index.js'
import { type ChannelPresence, Presence, PresenceEvents } from './presence/index.js'
import { Emulation, SdkClients, type SdkFormat } from './protocols/centrifugo/index.js'
import { EventStreamServer } from './protocols/event-stream/index.js'
import { WebSocketServer } from './protocols/websocket/index.js'
import { type Notification, Outbox } from './publishing/index.js'
import { VERSION } from './version.js'

/** How long the pool may take to answer a health check, in milliseconds. */
const HEALTH_DEADLINE = 2000

/** How many messages, and bytes, go into one transaction: a message for several channels counts for each. */
const MAX_PUBLISHED = 10_000
const MAX_PUBLISHED_BYTES = 16 * 1024 * 1024

/** How long messages are prepared before others have their turn, in milliseconds. */
const SLICE = 10

/** How long the start waits before it asks the pool again, in milliseconds. */
const POOL_RETRY = 1000

type OptionsUsed =
  | 'listenChannel'
  | 'checkListenerInterval'
  | 'metaChannel'
  | 'rawChannels'
  | 'presenceChannels'
  | 'endpoints'
  | 'envelopeClaims'
  | 'maxBufferedBytes'
  | 'maxTotalBufferedBytes'
  | 'slowTimeout'
  | 'maxHistoryBytes'
  | 'maxMessageBytes'
  | 'maxConnections'
  | 'maxConnectionsPerIp'
  | 'messageRate'
  | 'nodeTimeout'
  | 'poolSize'
  | 'publishTimeout'
  | 'shutdownTimeout'
  | 'onMessageFunction'
  | 'authorizeFunction'
  | 'authorizeTtl'
  | 'onConnectFunction'
  | 'onDisconnectFunction'
  | 'roleClaim'
  | 'maxChannelsPerConnection'

export interface BridgeOptions extends Pick<ResolvedOptions, OptionsUsed> {
  /**
   * Runs one statement in the publishing pool. Rejects with DatabaseAway where it surely was not committed,
   * NotAccepted where the database refused it, OutcomeUnknown where it may have been committed.
   */
  query: Query
  /**
   * Runs one statement in a transaction of its own, as a caller where one is given; rejects as `query`, and with
   * RoleNotAllowed.
   */
  call: (text: string, values: unknown[], caller?: Caller) => Promise<Rows>
  /** Verifies a token's signature, audience and issuer; throws InvalidToken (401), KeysUnavailable (503). */
  verifyToken: (token: string) => Token | Promise<Token>
  /** Told whether this server and the schema `pgws` fit each other, whenever that changes. */
  onSchema: (state: SchemaState) => void
  listener: Listener
  log: Log
}

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

/** What the bridge emits. */
export interface BridgeEvents {
  /** The listener has ended for good. */
  lost: [error: Error]
  /** The listener listens again; `gap`: milliseconds within which notifications may have been lost. */
  reconnected: [{ gap: number }]
}

/** A message to publish, as `POST /publish` takes it. */
export interface OutgoingMessage {
  channels: readonly string[]
  payload: unknown
}

/** A page of what is stored of a channel. */
export interface ChannelHistory {
  messages: Message[]
  /** Messages between `since` and the first of these have gone already. */
  gap: boolean
  /** The id after which the next page begins; undefined: this is the last. */
  next: string | undefined
}

export interface PublishOptions {
  /** What makes durable messages that are sent again the same ones. */
  key?: string | undefined
  /** As whom the messages are passed to the function of `onMessageFunction`; undefined: they are not. */
  caller?: Caller | undefined
  /** Answer who got them. */
  confirm?: boolean | undefined
}

/**
 * The bridge between PostgreSQL and browsers. Every message goes through the database: there is no other way
 * from one socket to another.
 */
export class Bridge extends EventEmitter<BridgeEvents> {
  readonly metrics: Metrics
  readonly #options: BridgeOptions
  readonly #losses: Losses
  readonly #hub: Hub
  readonly #inbox: Inbox
  readonly #durable: DurableChannels
  readonly #history: History
  readonly #presence: Presence
  readonly #outbox: Outbox
  readonly #authorizer: Authorizer
  readonly #clients: Clients
  readonly #webSockets: WebSocketServer
  readonly #eventStreams: EventStreamServer
  readonly #sdkClients: SdkClients
  readonly #emulation: Emulation
  readonly #nodes: Nodes
  readonly #notificationQueue: NotificationQueue
  readonly #retention: Retention
  readonly #rawChannels: RawChannels
  readonly #replay: Replay
  #cancel!: (reason: Error) => void
  readonly #cancelled = new Promise<never>((_, reject) => {
    this.#cancel = reject
  })
  /** Why the pool has not said yet what is durable. */
  #poolFailure: string | undefined = 'no answer yet'
  /** What is durable is known: nothing is published before, since it would not be stored. */
  #informed = false
  #closed: Promise<void> | undefined

  constructor(options: BridgeOptions) {
    super()
    this.#options = options
    // Nobody waiting must not end the process.
    this.#cancelled.catch(() => {})
    const { query, listenChannel, listener, log } = options
    this.metrics = new Metrics(() => this.#read())
    this.#notificationQueue = new NotificationQueue({ query, log })
    this.#losses = new Losses(this.metrics, log)
    const onUnencodable = (_message: Message, error: unknown) =>
      this.#losses.add('unencodable', { err: error })
    this.#hub = new Hub(
      (error) => log.error({ err: error }, 'a function that was subscribed to a channel threw'),
      onUnencodable
    )
    this.#presence = new Presence({
      patterns: options.presenceChannels,
      onError: (error) => log.error({ err: error }, 'a function that watches a presence channel threw')
    })
    this.#durable = new DurableChannels(query, options.onSchema)
    // Publishing needs the others.
    this.#history = new History(
      query,
      this.#durable,
      Math.max(1, Math.floor(options.poolSize / 2)),
      (reason, fields) => this.#losses.add(reason, fields)
    )
    this.#inbox = new Inbox({
      listenChannel,
      deliver: (message) => this.#hub.deliver(message),
      wanted: (channel) => this.#hub.hasListeners(channel),
      replays: options.checkListenerInterval > 0,
      resolve: (references) => this.#history.resolve(references),
      onMessage: (sentAt) => {
        this.metrics.notifications.inc()
        if (sentAt === undefined) return
        this.metrics.deliverySeconds.observe(Math.max(0, Date.now() / 1000 - sentAt))
      },
      onLost: (reason, reference, error) => {
        this.#losses.add(reason, { err: error, table: reference?.table, position: reference?.position })
        if (reference?.table === 'message') this.#replay.tellLost(reference)
      }
    })
    const history = this.#history
    const durable = this.#durable
    const losses = this.#losses
    this.#replay = new Replay({ history, durable, inbox: this.#inbox, hub: this.#hub, losses, log })
    this.#rawChannels = new RawChannels({
      patterns: options.rawChannels,
      listenChannel,
      metaChannel: options.metaChannel,
      listen: (channel, handler) => listener.listen(channel, handler, { now: true }),
      deliver: (channel, text) => {
        this.metrics.notifications.inc()
        if (isReserved(text)) this.#losses.add('reserved')
        else this.#inbox.count(this.#hub.deliver({ channel, text, raw: true }))
      }
    })
    this.#retention = new Retention({ query, durable: this.#durable, log })
    this.#authorizer = new Authorizer({
      ...options,
      onError: (error) => log.warn({ err: error }, 'the function that authorizes failed')
    })
    this.#outbox = new Outbox({
      ...options,
      ready: () => this.#informed && listener.state.up,
      durable: this.#durable,
      rawChannels: this.#rawChannels,
      metrics: this.metrics
    })
    const presenceEvents = new PresenceEvents(this.#presence, onUnencodable)
    this.#clients = new Clients({
      ...options,
      hub: this.#hub,
      outbox: this.#outbox,
      catchUp: new CatchUp({ history, durable, losses }),
      presence: this.#presence,
      presenceEvents,
      metrics: this.metrics,
      node: () => this.#nodes.id
    })
    const clients = { ...options, clients: this.#clients, outbox: this.#outbox, metrics: this.metrics }
    this.#webSockets = new WebSocketServer(clients)
    this.#eventStreams = new EventStreamServer(clients)
    this.#emulation = new Emulation({
      node: () => this.#nodes.id,
      sessionsOf: (node) => this.#nodes.sessionsOf(node),
      outdated: () => this.#nodes.outdated,
      ask: (node, args) => this.#nodes.commands(node, args)
    })
    this.#sdkClients = new SdkClients({
      ...options,
      emulation: this.#emulation,
      hub: this.#hub,
      clients: this.#clients,
      outbox: this.#outbox,
      history: this.#history,
      durable: this.#durable,
      presence: this.#presence,
      presenceEvents,
      metrics: this.metrics,
      version: `fastify-pg-websockets ${VERSION}`,
      maxChannels: options.maxChannelsPerConnection,
      authorize: (token, channels, mode) => this.authorize(token, channels, mode),
      joinRaw: (channels) => this.#rawChannels.join(channels),
      isDurable: (channel) => this.#durable.ageOf(channel) !== undefined
    })
    this.#nodes = new Nodes({
      ...options,
      ready: () => listener.state.up,
      connections: this.#clients.connections,
      channels: () => this.channels(),
      presence: this.#presence,
      sessions: this.#emulation.sessions,
      commands: (args) => this.#emulation.answer(args),
      begin: (publication) => this.#inbox.begin(publication),
      end: (publication, counted) => this.#inbox.end(publication, counted)
    })
  }

  /** True once the server has begun to end: no new socket is taken. */
  get closing(): boolean {
    return this.#clients.closing
  }

  /**
   * Starts to listen, and goes on trying until the database says what is durable.
   * @param onFailure told of each try of the pool that has failed
   * @throws ListenerUnavailable where the listener is not supervised and the database cannot be reached;
   *   CannotListen; SchemaTooNew; ChannelRefused for a channel that the options name; ShuttingDown
   */
  async start(onFailure: (error: Error) => void = () => {}): Promise<void> {
    const { listener, listenChannel } = this.#options
    this.#notificationQueue.start()
    this.#retention.start()
    // Before LISTEN: what is committed after this look is notified.
    await this.#askPool(onFailure)
    await Promise.all([
      this.#require(SETTINGS_CHANNEL, () => {
        this.#replay.refreshLater()
      }),
      this.#require(listenChannel, (payload) => this.#inbox.receive(payload)),
      this.#require(this.#nodes.channel, (payload) => this.#nodes.receive(payload)),
      ...this.#listenForAudiences(),
      listener.start()
    ])
    await this.#nodes.hello()
    // The schema may have been installed by the start.
    while (!(await this.#askPool(onFailure))) {
      if (this.closing) throw new errors.ShuttingDown()
      await sleep(POOL_RETRY, undefined, { ref: false })
    }
    this.#informed = true
  }

  /**
   * Ends a start that is under way, as `close()` cannot: Fastify's waits for it. `ready()` rejects with ShuttingDown.
   */
  cancelStart(): void {
    this.#cancel(new errors.ShuttingDown())
  }

  /** Rejects when the start is to end. */
  get cancelled(): Promise<never> {
    return this.#cancelled
  }

  /** What `start()` waits for; empty once it has succeeded. For the log: it may tell where the database is. */
  get awaited(): string[] {
    if (this.#informed) return []
    const failure = this.#poolFailure
    return [
      ...(this.listenerState.up ? [] : ['the listening connection']),
      ...(failure === undefined ? [] : [`the publishing connections (${failure})`])
    ]
  }

  /** @returns whether the pool has said what is durable */
  async #askPool(onFailure: (error: Error) => void): Promise<boolean> {
    const failure = await this.#replay.tryRefresh()
    // What it means to clients is not to the point.
    this.#poolFailure = failure && fullMessageOf(failure.cause ?? failure)
    if (failure !== undefined) onFailure(failure)
    return failure === undefined
  }

  /**
   * Calls a function with the payload of each notification on a database channel.
   * @param databaseChannel 1 to 63 bytes
   * @returns once LISTEN has committed, a function that ends it
   * @throws BadMessage, ChannelRefused (400) for a name that the database does not take
   */
  listen(databaseChannel: string, handler: (payload: string) => void): Promise<() => Promise<void>> {
    return this.#options.listener.listen(databaseChannel, handler)
  }

  /**
   * Calls a function with each message of a websocket channel: the text that browsers get.
   * @returns a function that ends it
   */
  subscribe(channel: string, handler: (message: string) => void): () => void {
    checkChannel(channel, 'the channel')
    return this.#hub.listen(channel, handler)
  }

  /**
   * Publishes a message to everyone who reads a websocket channel, on all servers.
   * @param channel the websocket channel
   * @param payload a string, or any other JSON value
   * @param claims what the message's `claims` show beside `message_delivered_at`
   * @returns a promise that resolves when the database has accepted it; with `confirm`, when all servers have told
   *   to how many clients they delivered it, or 2 s later
   * @throws BadMessage, PayloadTooLarge, DatabaseAway, NotAccepted, OutcomeUnknown
   */
  publish(channel: string, payload: unknown, claims?: Claims): Promise<void>
  publish(channel: string, payload: unknown, claims: Claims, options: { confirm: true }): Promise<Delivery>
  async publish(
    channel: string,
    payload: unknown,
    claims: Claims = {},
    { confirm = false }: { confirm?: boolean } = {}
  ): Promise<Delivery | void> {
    return this.publishAll([{ channels: [channel], payload }], claims, { confirm })
  }

  /**
   * Publishes several messages in one transaction: all or none. Arguments and errors as for `publish`.
   * @throws RequestTooLarge (413) where they are too many
   * @throws Rejected, RoleNotAllowed where they are passed to a function that refuses one of them
   */
  async publishAll(
    messages: readonly OutgoingMessage[],
    claims: Claims,
    { key, caller, confirm = false }: PublishOptions = {}
  ): Promise<Delivery | void> {
    const sender = senderOf(claims, this.#options.envelopeClaims)
    const count = messages.reduce((sum, { channels }) => sum + channels.length, 0)
    if (count > MAX_PUBLISHED)
      throw new errors.RequestTooLarge(`${MAX_PUBLISHED} messages, one for each channel`)
    const notifications: Notification[] = []
    let bytes = 0
    let slice = performance.now() + SLICE
    for (const { channels, payload } of messages) {
      for (const channel of channels) {
        checkChannel(channel, 'the channel')
        const notification = this.#outbox.notification(channel, payload, sender, caller)
        notifications.push({ ...notification, key: key && `${key}:${notifications.length}` })
        bytes += notification.payload.length
        if (bytes > MAX_PUBLISHED_BYTES && count > 1) {
          throw new errors.RequestTooLarge(`${MAX_PUBLISHED_BYTES} bytes, with envelopes`)
        }
        if (performance.now() < slice) continue
        await nextTurn()
        slice = performance.now() + SLICE
      }
    }
    if (!confirm) return this.#outbox.publish(notifications)
    return this.#nodes.confirm(notifications, (all) => this.#outbox.publish(all, false, true))
  }

  /**
   * Asks the database whether a client may do something in all of some channels, where a function for that is set.
   * @returns as whom functions are called for it; undefined where none is set
   * @throws NotAuthorized, RoleNotAllowed (403), DatabaseAway (503)
   */
  async authorize(token: Token, channels: readonly string[], mode: Mode): Promise<Caller | undefined> {
    if (!callsFunctions(this.#options)) return undefined
    const caller = callerOf(token, this.#options.roleClaim)
    await this.#authorizer.check(caller, channels, mode)
    return caller
  }

  /**
   * The stored messages of a channel, oldest first.
   * @param since the id after which they begin; undefined or `earliest`: the oldest that is there
   * @param limit the most messages; fewer where they take more than `maxHistoryBytes`
   * @param reader whoever asks: readers take turns
   * @throws NotInstalled (501), BadMessage (400) for what is no id, UnknownPosition (409) for one of another epoch
   */
  async history(
    channel: string,
    since: string | undefined,
    limit: number,
    reader = ''
  ): Promise<ChannelHistory> {
    this.#durable.require()
    const start = since === undefined || since === 'earliest' ? undefined : parseMessageId(since)
    if (start === undefined && since !== undefined && since !== 'earliest') {
      throw new errors.BadMessage('"since" must be the id of a message, or "earliest"')
    }
    if (start !== undefined && start.epoch !== this.#durable.epoch) throw new errors.UnknownPosition()
    const { maxHistoryBytes: maxBytes } = this.#options
    const options = { after: start?.position, limit, maxBytes }
    const { messages, more } = await this.#history.list(channel, reader, options).catch((error) => {
      throw asBadMessage(error)
    })
    const page = { messages: messages.map(({ message }) => message), gap: false, next: undefined }
    const next = more ? page.messages.at(-1)!.id : undefined
    if (start === undefined) return { ...page, next }
    // After the messages, since some may have gone before they were read.
    const { latest, channels } = await this.#history.state([channel])
    if (start.position > latest) throw new errors.UnknownPosition()
    return { ...page, next, gap: start.position < channels[0]!.trimmed }
  }

  /** To be called before a large answer is sent: where too much waits for clients, the slowest are ended. */
  holdAnswer(response: ServerResponse, bytes: Buffer): void {
    new HeldAnswer(response, bytes, this.#clients.flow)
  }

  /**
   * Lets a client in, the last thing before it is accepted: counts it, and listens to its raw channels, for as long
   * as its transport lives.
   * @param channels those that it reads
   * @throws TooManyConnections (503), TooManyConnectionsFromAddress (429), BadAddress (400) for a name that no database
   *   channel can have, ListenerUnavailable (503)
   */
  async admit(transport: Transport, ip: string, channels: readonly string[] = []): Promise<void> {
    whenGone(transport, await this.#rawChannels.join(channels))
    this.#clients.admit(transport, ip)
  }

  /** @throws NotInstalled (501) where a client asks for what needs the schema */
  requireDurable(): void {
    this.#durable.require()
  }

  /**
   * The channels that sockets of this server are connected to; with the scope `cluster`, those of all servers.
   * @throws NodesUnavailable (503) for the scope `cluster` while the database is away
   */
  channels(options?: { scope?: 'local' | undefined }): ChannelSummary[]
  channels(options: Scope & { scope: 'cluster' }): Promise<ChannelSummary[]>
  channels(options: Scope = {}): ChannelSummary[] | Promise<ChannelSummary[]> {
    if (options.scope === 'cluster') return this.#nodes.channels(options)
    return this.#hub.summary().filter(({ channel }) => isPublicChannel(channel))
  }

  /**
   * Who is in a presence channel, on all servers; while the database is away, of the others as last heard.
   * @throws NoPresence (404)
   */
  presence(channel: string): ChannelPresence {
    this.requirePresence([channel])
    return this.#presence.summary(channel)
  }

  /** @throws NoPresence (404) where none of some channels is a presence channel */
  requirePresence(channels: readonly string[]): void {
    if (!channels.some((channel) => this.#presence.has(channel))) throw new errors.NoPresence()
  }

  /**
   * The servers that share this database and listen channel, this one first.
   * @throws NodesUnavailable (503) while the database is away
   */
  nodes(): NodeSummary[] {
    return this.#nodes.nodes()
  }

  /**
   * The open connections, sockets and event streams alike, that fit all of a filter.
   * @throws BadQuery (400); NodesUnavailable (503) for the scope `cluster` while the database is away
   */
  connections(filter: ConnectionFilter & Scope = {}): Promise<ConnectionSummary[]> {
    return this.#nodes.connections(filter, filter)
  }

  /**
   * Closes the connections that fit all of a filter, on whichever server they are.
   * @param closing code (1000, or 3000 to 4999) and reason (at most 123 bytes); default: 3000, `disconnected`
   * @throws BadQuery (400), NodesUnavailable (503) while the database is away
   */
  disconnect(filter: ConnectionFilter, closing: Partial<Closing> = {}): Promise<Disconnected> {
    return this.#nodes.disconnect(filter, closing)
  }

  /** The state of the listener's connection. */
  get listenerState(): ListenerState {
    return this.#options.listener.state
  }

  /** Whether this server can do its work: the listener is alive and the pool answers. */
  async health(): Promise<Health> {
    const { up, upSince, lastProvenAlive, reconnects } = this.listenerState
    const late = sleep(HEALTH_DEADLINE, undefined, { ref: false })
    const [usage, permission = 'all'] =
      (await Promise.race([
        Promise.all([this.#notificationQueue.check(), this.#durable.permission()]),
        late
      ])) ?? []
    const { failures } = this.#losses
    const schema = this.#durable.state
    const fits = schema.error === undefined && permission !== 'none'
    const available = up && this.#informed && fits && usage !== undefined
    const { readOnly } = this.#notificationQueue
    const degraded =
      this.#notificationQueue.crowded || readOnly || permission === 'some' || failures.length > 0
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
      connections: this.#clients.connections.size
    }
  }

  /**
   * Takes an accepted socket into its channels.
   * @param webSocket an open socket; its errors are handled from here on
   * @param access what its token allows
   * @param ip its client's address
   */
  connect(webSocket: WebSocket, access: Access, ip: string, wishes?: Wishes): void {
    this.#webSockets.connect(webSocket, access, ip, wishes)
  }

  /**
   * Takes a client that reads server-sent events into its channels.
   * @param response its head has been written
   */
  stream(response: ServerResponse, access: Access, ip: string, wishes?: Wishes): void {
    this.#eventStreams.stream(response, access, ip, wishes)
  }

  /**
   * Takes an accepted socket that speaks Centrifugo's client protocol; its client says who it is itself.
   * @param webSocket an open socket; its errors are handled from here on
   * @param ip its client's address
   */
  connectSdk(webSocket: WebSocket, ip: string): void {
    this.#sdkClients.connect(webSocket, ip)
  }

  /**
   * Takes a client of that protocol that reads an HTTP answer.
   * @param response its head has been written
   * @param commands the client's first
   * @param ip its address
   */
  streamSdk(response: ServerResponse, format: SdkFormat, commands: string, ip: string): void {
    this.#sdkClients.stream(response, format, commands, ip)
  }

  /**
   * Takes commands of such a client, whichever server it reads from.
   * @param session what it was told with its connection, as `node`: a secret
   * @returns whether there is such a session
   * @throws NodesUnavailable (503) where it is another server's, and the database is away
   */
  commandsOfSdk(session: string, node: string, commands: string): Promise<boolean> {
    return this.#emulation.receive(session, node, commands)
  }

  /**
   * To be called when the listener is about to prove that it is alive.
   * @returns to be called when it has
   */
  listenerProbed(): () => void {
    return this.#replay.probe()
  }

  /** To be called when the listener was lost: something may be missing before what comes next. */
  listenerLost(): void {
    this.#replay.listenerLost()
  }

  /** To be called when the listener is back: replays what durable channels missed, and tells of the gap. */
  listenerReconnected(gap: number): void {
    this.#replay.listenerReconnected()
    this.#nodes.hello()
    this.#sdkClients.listenerReconnected()
    this.emit('reconnected', { gap })
    this.#outbox.tellMeta('ListenerReconnected', { gap }, senderOf({}))
  }

  /**
   * Closes all sockets and finishes what is being published; asked again, it is the same end.
   * @param leaving with what word
   */
  close(leaving: Leaving = SHUTTING_DOWN): Promise<void> {
    this.#closed ??= this.#close(leaving)
    return this.#closed
  }

  async #close(leaving: Leaving): Promise<void> {
    const { shutdownTimeout, log } = this.#options
    this.#retention.stop()
    this.#replay.stop()
    this.#hub.flush()
    this.#sdkClients.close()
    await this.#clients.close(shutdownTimeout * 0.6, leaving)
    await this.#outbox.idle(shutdownTimeout * 0.2)
    const { queuedBytes } = this.#outbox
    if (queuedBytes > 0) log.error({ queuedBytes }, 'the database did not take all messages before the end')
    await Promise.race([this.#nodes.goodbye(), sleep(shutdownTimeout * 0.1, undefined, { ref: false })])
    this.#notificationQueue.stop()
    this.#inbox.close()
    this.#losses.stop()
  }

  /** Listens to what the options name; the start fails where the database refuses it. */
  #require(databaseChannel: string, handler: (payload: string) => void): Promise<unknown> {
    return this.#options.listener.listen(databaseChannel, handler, { required: true })
  }

  #listenForAudiences(): Promise<unknown>[] {
    const { endpoints } = this.#options
    const databaseChannels = new Set(endpoints.flatMap(({ channels }) => channels))
    return [...databaseChannels].map((name) =>
      this.#require(name, (payload) => {
        this.metrics.notifications.inc()
        const read = readAudienceMessage(payload)
        // It is to be "audience,{…}".
        if (read === undefined) {
          this.#losses.add('malformed', { databaseChannel: name })
          return
        }
        const text = audienceMessage(name, read.object)
        for (const [index, { channels }] of endpoints.entries()) {
          if (!channels.includes(name)) continue
          this.#hub.deliver({ channel: audienceChannel(index, read.audience), text })
        }
      })
    )
  }

  #read() {
    const { up, reconnects, gapMilliseconds, lastProvenAlive } = this.listenerState
    return {
      connections: this.#clients.connections.size,
      channels: this.#hub.joinedChannels,
      pausedSockets: this.#outbox.pausedSenders + this.#clients.pace.throttled,
      publishQueueBytes: this.#outbox.queuedBytes,
      messagesSent: this.#clients.sent.messages,
      bytesSent: this.#clients.sent.bytes,
      bufferedBytes: this.#clients.flow.totalBytes,
      listenerUp: up,
      listenerReconnects: reconnects,
      listenerGap: gapMilliseconds / 1000,
      listenerHeartbeat: lastProvenAlive === undefined ? undefined : lastProvenAlive / 1000,
      notificationQueueUsage: this.#notificationQueue.usage
    }
  }
}

function isoTime(time: number | undefined): string | null {
  return time === undefined ? null : new Date(time).toISOString()
}
