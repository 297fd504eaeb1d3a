import type { ServerResponse } from 'node:http'
import type { RawData, WebSocket } from 'ws'
import type { Token } from '../../auth/index.js'
import type { Hub } from '../../channels/index.js'
import { type Clients, Expiry, PAUSED } from '../../clients/index.js'
import type { MessageStore, RetentionRules } from '../../durable/index.js'
import type { Log } from '../../log.js'
import type { Metrics } from '../../metrics.js'
import type { JoinLeavePush, Presence } from '../../presence/index.js'
import type { Publisher } from '../../publishing/index.js'
import { SdkWebSocketConnection } from './connections.js'
import type { Emulation } from './emulation.js'
import { SdkPresence } from './presence.js'
import { DISCONNECT, type Disconnect } from './protocol.js'
import type { SdkFormat } from './publication.js'
import { Recovery } from './recovery.js'
import type { Expiring, SdkConnection, SdkServices } from './services.js'
import { CONNECT_TIMEOUT, Session } from './session.js'
import type { SdkTransport } from './session-transport.js'
import { StreamTransport } from './stream-transport.js'
import type { Subscription } from './subscription.js'

/** The subprotocol of clients that speak another encoding of this protocol. */
const PROTOBUF = 'centrifuge-protobuf'

/** An SDK gives up a publish after 5 s; it must not be published later, in milliseconds. */
const PATIENCE = 4000

type Given =
  | 'hub'
  | 'maxChannels'
  | 'maxBufferedBytes'
  | 'version'
  | 'verifyToken'
  | 'authorizer'
  | 'rawChannels'

export interface CentrifugoServerOptions extends Pick<SdkServices, Given> {
  hub: Hub
  clients: Clients
  publisher: Publisher
  history: MessageStore
  durable: RetentionRules
  presence: Presence
  joinLeavePush: JoinLeavePush
  metrics: Metrics
  emulation: Emulation
  maxHistoryBytes: number
  verifyToken: (token: string) => Token | Promise<Token>
  log: Log
}

/** The clients that speak Centrifugo's client protocol. */
export class CentrifugoServer {
  readonly #options: CentrifugoServerOptions
  readonly #services: SdkServices
  readonly #sessions = new Set<Session>()
  /** Those that have not said who they are. */
  readonly #strangers = new Expiry<Session>((session) => {
    if (session.connection === undefined) session.close(DISCONNECT.STALE)
  })
  readonly #expiry = new Expiry<{ owner: Expiring; subscription: Subscription }>(({ owner, subscription }) =>
    owner.expire(subscription)
  )
  readonly #expiring = new WeakMap<Subscription, { owner: Expiring; subscription: Subscription }>()

  constructor(options: CentrifugoServerOptions) {
    this.#options = options
    const { clients } = options
    this.#services = {
      ...options,
      pace: clients.pace,
      recovery: new Recovery(options),
      presence: new SdkPresence({
        ...options,
        memberOf: (connection) => clients.membership.memberOf(connection)
      }),
      idOf: (connection) => clients.idOf(connection),
      enter: (connection, access) => clients.enter(connection, access),
      renew: (connection, access, expiresAt) => clients.renew(connection, { ...access, expiresAt }),
      publish: (connection, channel, data, caller) => this.#publish(connection, channel, data, caller),
      deliver: (connection, json) => {
        const bytes = connection.format.wrap(json)
        connection.deliver([{ bytes, position: undefined }], bytes)
      },
      onPong: (connection) => {
        if (connection !== undefined) connection.unanswered = 0
      },
      expiry: {
        add: (owner, subscription) => this.#expire(owner, subscription),
        delete: (subscription) => this.#keep(subscription)
      }
    }
  }

  /**
   * Takes an accepted socket.
   * @param webSocket an open socket; its errors are handled from here on
   * @param address its client's IP address
   */
  connect(webSocket: WebSocket, address: string): void {
    const { clients, log } = this.#options
    webSocket.on('error', (error) => log.debug({ err: error }, 'websocket error'))
    if (webSocket.protocol === PROTOBUF) {
      const { code, reason } = DISCONNECT.INAPPROPRIATE_PROTOCOL
      webSocket.close(code, reason)
      return
    }
    const transport = new WebSocketTransport(webSocket, address, clients)
    const session = this.#begin(transport)
    webSocket.on('message', (data: RawData) => session.receive(data.toString()))
    webSocket.on('ping', () => session.count())
    webSocket.on('close', (code, reason) => this.#end(session, code, reason.toString()))
    if (clients.closing) session.close(DISCONNECT.SHUTDOWN)
  }

  /**
   * Takes a client that reads an HTTP answer; what it sends after its first commands comes by way of `emulation`.
   * @param response its head has been written
   * @param commands the first ones
   * @param address the client's IP address
   */
  stream(response: ServerResponse, format: SdkFormat, commands: string, address: string): void {
    const { clients, emulation, maxBufferedBytes, log } = this.#options
    response.on('error', (error) => log.debug({ err: error }, 'stream error'))
    if (response.destroyed) return
    const { details, end } = emulation.begin((text) => transport.receive(session, text))
    const transport = new StreamTransport({
      response,
      format,
      address,
      clients,
      details,
      maxHeldBytes: maxBufferedBytes
    })
    const session = this.#begin(transport)
    response.on('close', () => {
      end()
      const { closeCode = 0, closeReason = '' } = transport.connection ?? {}
      this.#end(session, closeCode, closeReason)
    })
    if (clients.closing) session.close(DISCONNECT.SHUTDOWN)
    else session.receive(commands)
  }

  /** To be called when the listener is back: what nobody stores may be missing. */
  listenerReconnected(): void {
    for (const session of this.#sessions) session.insufficient()
  }

  /** Closes those that have not said who they are; all others are connections as any. */
  close(): void {
    for (const session of this.#sessions) {
      if (session.connection === undefined) session.close(DISCONNECT.SHUTDOWN)
    }
    this.#strangers.stop()
    this.#expiry.stop()
    this.#services.presence.stop()
  }

  #begin(transport: SdkTransport): Session {
    const session = new Session(this.#services, transport)
    this.#sessions.add(session)
    this.#strangers.add(session, Date.now() + CONNECT_TIMEOUT)
    return session
  }

  #end(session: Session, code: number, reason: string): void {
    const { connection } = session
    const channels = [...(connection?.channels ?? [])]
    session.end()
    this.#sessions.delete(session)
    if (connection !== undefined) this.#options.clients.leave(connection, code, reason, channels)
  }

  async #publish(
    connection: SdkConnection,
    channel: string,
    data: unknown,
    caller: Parameters<Publisher['notification']>[3]
  ): Promise<void> {
    const { publisher, clients, metrics } = this.#options
    const notification = publisher.notification(channel, data, connection.sender!, caller)
    metrics.messagesReceived.inc()
    metrics.bytesReceived.inc(notification.payload.length)
    const published = publisher.publish([notification], { wait: PATIENCE })
    clients.waitForDatabase(connection)
    await published
  }

  #expire(owner: Expiring, subscription: Subscription): void {
    if (subscription.expiresAt === undefined) return
    const entry = { owner, subscription }
    this.#expiring.set(subscription, entry)
    this.#expiry.add(entry, subscription.expiresAt)
  }

  #keep(subscription: Subscription): void {
    const entry = this.#expiring.get(subscription)
    if (entry !== undefined) this.#expiry.delete(entry, subscription.expiresAt!)
  }
}

class WebSocketTransport implements SdkTransport {
  readonly address: string
  readonly details = {}
  readonly #webSocket: WebSocket
  readonly #clients: Clients
  #connection: SdkWebSocketConnection | undefined

  constructor(webSocket: WebSocket, address: string, clients: Clients) {
    this.#webSocket = webSocket
    this.address = address
    this.#clients = clients
  }

  attach(access: Parameters<SdkTransport['attach']>[0]): SdkConnection {
    const options = this.#clients.optionsFor(access, this.address)
    this.#connection = new SdkWebSocketConnection(this.#webSocket, access, options)
    return this.#connection
  }

  send(json: string): void {
    this.#webSocket.send(json)
  }

  close({ code, reason }: Disconnect): void {
    if (this.#connection === undefined) this.#webSocket.close(code, reason)
    else this.#connection.close(code, reason)
  }

  pause(): void {
    if (this.#connection === undefined) this.#webSocket.pause()
    else this.#connection.pause(PAUSED.INTAKE)
  }

  resume(): void {
    if (this.#connection === undefined) this.#webSocket.resume()
    else this.#connection.resume(PAUSED.INTAKE)
  }
}
