import { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RawData, WebSocket } from 'ws'
import type { Access, Claims } from './claims.js'
import { channelOf, envelope, type Sender, senderOf } from './envelope.js'
import { errors, messageOf } from './errors.js'
import { Expiry } from './expiry.js'
import { type ChannelSummary, Hub } from './hub.js'
import type { Listener, ListenerState } from './listener.js'
import { Publisher } from './publisher.js'
import { CLOSE, type SubscriberLimits, WebSocketSubscriber } from './subscriber.js'

/** How often sockets are pinged, in milliseconds; what postgres-websockets does. */
const PING_INTERVAL = 30_000

/** How long sockets may take to close, and the database to take what waits, when the server ends. */
const CLOSE_DEADLINE = 2000

/** How long the pool may take to answer a health check, in milliseconds. */
const HEALTH_DEADLINE = 2000

/** The part of a logger (pino's) that is used here. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

export interface BridgeOptions {
  listenChannel: string
  metaChannel: string | undefined
  maxBufferedBytes: number
  /** Runs one statement in the publishing pool; rejects where it may not have been committed. */
  query: (text: string, values?: unknown[]) => Promise<unknown>
  listener: Listener
  log: Log
}

/** What the health checks show. Times are ISO 8601. */
export interface Health {
  status: 'ok' | 'unavailable'
  listener: {
    status: 'up' | 'down'
    /** Since when it has been listening without a break. */
    upSince: string | null
    /** When it was last proven that notifications arrive. */
    lastProvenAlive: string | null
    reconnects: number
  }
  pool: { status: 'up' | 'down' }
  /** How many sockets are open. */
  connections: number
}

/**
 * One accepted socket. Servers hold many thousands of them, so it keeps no more of the token than it needs, and
 * its listeners are functions that all sockets share.
 */
class Connection extends WebSocketSubscriber {
  readonly channels: readonly string[]
  readonly read: boolean
  readonly write: boolean
  readonly expiresAt: number | undefined
  /** Undefined where nothing is ever told of it. */
  readonly sender: Sender | undefined

  constructor(webSocket: WebSocket, access: Access, sender: Sender | undefined, limits: SubscriberLimits) {
    super(webSocket, limits)
    this.channels = access.channels
    this.read = access.read
    this.write = access.write
    this.expiresAt = access.expiresAt
    this.sender = sender
  }
}

const kConnection = Symbol('pgws connection')

type ConnectedWebSocket = WebSocket & { [kConnection]: Connection }

/** A message to publish, as `POST /publish` takes it. */
export interface OutgoingMessage {
  channels: readonly string[]
  payload: unknown
}

/**
 * The bridge between PostgreSQL and browsers. Every message goes through the database: there is no other way
 * from one socket to another.
 *
 * Emits `lost` (error) when the listener is not supervised and its connection is gone.
 */
export class Bridge extends EventEmitter<{ lost: [error: Error] }> {
  readonly #options: BridgeOptions
  readonly #hub: Hub
  readonly #publisher: Publisher
  readonly #connections = new Set<Connection>()
  readonly #expiry: Expiry<Connection>
  readonly #pings: NodeJS.Timeout
  readonly #limits: SubscriberLimits
  readonly #onClose: (this: WebSocket) => void
  readonly #onError: (error: Error) => void
  readonly #onMessage: (this: WebSocket, data: RawData) => void
  #poolCheck: Promise<boolean> | undefined
  #closing = false

  constructor(options: BridgeOptions) {
    super()
    this.#options = options
    const { query, listenChannel, log } = options
    this.#hub = new Hub((error) =>
      log.error({ err: error }, 'a function that was subscribed to a channel threw')
    )
    this.#publisher = new Publisher(async (payloads) => {
      try {
        // count(): one row comes back, not one for each message.
        await query('select count(pg_notify($1, payload)) from unnest($2::text[]) as payload', [
          listenChannel,
          payloads
        ])
      } catch (error) {
        throw new errors.DatabaseAway(messageOf(error))
      }
    })
    this.#limits = {
      maxBufferedBytes: options.maxBufferedBytes,
      onSlow: (bufferedBytes) => log.warn({ bufferedBytes }, 'closing a client that does not read')
    }
    const bridge = this
    this.#onClose = function () {
      bridge.#leave((this as ConnectedWebSocket)[kConnection])
    }
    // `ws` closes the socket with the code that fits (1007, 1009, 1002) before it emits the error.
    this.#onError = (error) => log.debug({ err: error }, 'websocket error')
    this.#onMessage = function (data) {
      bridge.#send((this as ConnectedWebSocket)[kConnection], data as Buffer)
    }
    this.#expiry = new Expiry((connection) => connection.close(CLOSE.JWT_EXPIRED, 'JWT expired'))
    this.#pings = setInterval(() => {
      for (const connection of this.#connections) connection.ping()
    }, PING_INTERVAL).unref()
  }

  /** True once the server has begun to end: no new socket is taken. */
  get closing(): boolean {
    return this.#closing
  }

  /**
   * Starts to listen.
   * @throws ListenerUnavailable where the listener is not supervised and the database cannot be reached
   */
  async start(): Promise<void> {
    await Promise.all([
      this.#options.listener.listen(this.#options.listenChannel, (payload) => this.#receive(payload)),
      this.#options.listener.start()
    ])
  }

  /**
   * Calls a function with the payload of each notification on a database channel.
   * @param databaseChannel 1 to 63 bytes
   * @returns once LISTEN has committed, a function that ends it
   */
  listen(databaseChannel: string, handler: (payload: string) => void): Promise<() => Promise<void>> {
    return this.#options.listener.listen(databaseChannel, handler)
  }

  /**
   * Calls a function with each message of a websocket channel: the text that browsers get.
   * @returns a function that ends it
   */
  subscribe(channel: string, handler: (message: string) => void): () => void {
    return this.#hub.listen(channel, handler)
  }

  /**
   * Publishes a message to everyone who reads a websocket channel, on all servers.
   * @param channel the websocket channel
   * @param payload a string, or any other JSON value
   * @param claims what the message's `claims` show beside `message_delivered_at`
   * @returns a promise that resolves when the database has accepted it
   * @throws BadMessage, PayloadTooLarge, DatabaseAway
   */
  publish(channel: string, payload: unknown, claims: Claims = {}): Promise<void> {
    return this.publishAll([{ channels: [channel], payload }], claims)
  }

  /** Publishes several messages in one transaction: all or none. Arguments and errors as for `publish`. */
  async publishAll(messages: readonly OutgoingMessage[], claims: Claims): Promise<void> {
    const sender = senderOf(claims)
    const payloads: string[] = []
    for (const { channels, payload } of messages) {
      for (const channel of channels) payloads.push(message(channel, payload, sender))
    }
    await this.#publisher.publish(payloads)
  }

  /** The channels that sockets of this server are connected to. */
  channels(): ChannelSummary[] {
    return this.#hub.summary()
  }

  /** The state of the listener's connection. */
  get listenerState(): ListenerState {
    return this.#options.listener.state
  }

  /** Whether this server can do its work: the listener is alive and the pool answers. */
  async health(): Promise<Health> {
    const { up, upSince, lastProvenAlive, reconnects } = this.listenerState
    this.#poolCheck ??= this.#checkPool().finally(() => {
      this.#poolCheck = undefined
    })
    const poolUp = await this.#poolCheck
    return {
      status: up && poolUp ? 'ok' : 'unavailable',
      listener: {
        status: up ? 'up' : 'down',
        upSince: isoTime(upSince),
        lastProvenAlive: isoTime(lastProvenAlive),
        reconnects
      },
      pool: { status: poolUp ? 'up' : 'down' },
      connections: this.#connections.size
    }
  }

  /**
   * Takes an accepted socket into its channels.
   * @param webSocket an open socket; its errors are handled from here on
   * @param access what its token allows
   */
  connect(webSocket: WebSocket, access: Access): void {
    const { metaChannel } = this.#options
    const sender = access.write || metaChannel !== undefined ? senderOf(access.claims) : undefined
    const connection = new Connection(webSocket, access, sender, this.#limits)
    ;(webSocket as ConnectedWebSocket)[kConnection] = connection
    this.#connections.add(connection)
    this.#hub.join(connection, connection.channels, connection)
    if (connection.expiresAt !== undefined) this.#expiry.add(connection, connection.expiresAt)
    webSocket.on('close', this.#onClose)
    webSocket.on('error', this.#onError)
    webSocket.on('pong', onPong)
    if (connection.write) webSocket.on('message', this.#onMessage)
    this.#tellMeta('ConnectionOpen', connection)
  }

  /** Closes all sockets with 1001 and finishes what is being published. */
  async close(): Promise<void> {
    this.#closing = true
    clearInterval(this.#pings)
    for (const connection of this.#connections) connection.close(CLOSE.GOING_AWAY, 'server shutting down')
    const deadline = Date.now() + CLOSE_DEADLINE
    while (this.#connections.size > 0 && Date.now() < deadline) await sleep(10)
    for (const connection of this.#connections) connection.terminate()
    await Promise.race([this.#publisher.idle(), sleep(CLOSE_DEADLINE, undefined, { ref: false })])
    this.#expiry.stop()
  }

  #receive(payload: string): void {
    this.#hub.deliver(channelOf(payload) ?? this.#options.listenChannel, payload)
  }

  #leave(connection: Connection): void {
    const { channels, expiresAt } = connection
    this.#connections.delete(connection)
    this.#hub.leave(connection, channels, connection)
    if (expiresAt !== undefined) this.#expiry.delete(connection, expiresAt)
    this.#tellMeta('ConnectionClose', connection)
  }

  #send({ webSocket, channels, sender }: Connection, data: Buffer): void {
    if (webSocket.readyState !== webSocket.OPEN) return
    const text = data.toString('utf8')
    const payloads: string[] = []
    try {
      for (const channel of channels) payloads.push(message(channel, text, sender!))
    } catch (error) {
      webSocket.close(CLOSE.INVALID_DATA, messageOf(error))
      return
    }
    this.#publisher.publish(payloads).catch((error) => {
      this.#options.log.warn({ err: error, channels: channels.length }, 'a message was not published')
      if (error instanceof errors.PayloadTooLarge) webSocket.close(CLOSE.TOO_BIG, 'message too large')
      else webSocket.close(CLOSE.NOT_PUBLISHED, 'message not published')
    })
    if (this.#publisher.overloaded) {
      webSocket.pause()
      this.#publisher.onDrain(() => webSocket.resume())
    }
  }

  #tellMeta(event: string, { channels, sender }: Connection): void {
    const { metaChannel, log } = this.#options
    if (metaChannel === undefined || sender === undefined) return
    this.#publisher.publish([envelope(event, metaChannel, channels.join(','), sender)]).catch((error) => {
      log.warn({ err: error }, `${event} could not be told on the meta channel`)
    })
  }

  async #checkPool(): Promise<boolean> {
    const answer = this.#options.query('select 1').then(
      () => true,
      () => false
    )
    return Promise.race([answer, sleep(HEALTH_DEADLINE, false, { ref: false })])
  }
}

/** @throws BadMessage for what PostgreSQL's text and jsonb cannot hold */
function message(channel: string, payload: unknown, sender: Sender): string {
  const text = envelope('WebsocketMessage', channel, payload, sender)
  // JSON.stringify escapes NUL and lone surrogates, so the text itself would pass; but every reader that casts
  // it to jsonb would fail (https://www.postgresql.org/docs/current/datatype-json.html).
  if (text.includes('\\u') && /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/.test(text)) {
    throw new errors.BadMessage('it holds a NUL character or a lone surrogate')
  }
  return text
}

function isoTime(time: number | undefined): string | null {
  return time === undefined ? null : new Date(time).toISOString()
}

function onPong(this: WebSocket): void {
  ;(this as ConnectedWebSocket)[kConnection].alive = true
}
