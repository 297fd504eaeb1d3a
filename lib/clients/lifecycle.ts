import type { ServerResponse } from 'node:http'
import type { RawData, WebSocket } from 'ws'
import type { Access } from '../auth/index.js'
import { type Hub, isPublicChannel } from '../channels/index.js'
import type { ResolvedOptions } from '../config/index.js'
import type { Replay } from '../durable/index.js'
import { errors, messageOf } from '../errors.js'
import { senderOf, serverMessage, showsClaim } from '../messages/index.js'
import type { Metrics } from '../metrics.js'
import type { Presence, PresenceEvents } from '../presence/index.js'
import { EventStream } from '../protocols/event-stream/index.js'
import type { Notification, Outbox, Rejection } from '../publishing/index.js'
import { PAUSED, type Pausable, type RawMessage, WebSocketConnection } from '../transports/index.js'
import { CLOSE, type Connection, type ConnectionContext, type ConnectionOptions } from './connection.js'
import { Admission } from './connection-limit.js'
import { connectionId } from './filter.js'
import { FlowControl } from './flow-control.js'
import { Intake, Pace } from './intake.js'
import { Attendance } from './presence-membership.js'
import { Connections, type Leaving } from './registry.js'
import { type Transport, whenGone } from './transport.js'

/** The SQLSTATE of a role that cannot be taken (errcodes-appendix.html). */
const INSUFFICIENT_PRIVILEGE = '42501'

/** What a client asks for beside its channels. */
export interface Wishes {
  /** The id of the last durable message that it has, or `earliest`: what came after it is replayed. */
  since?: string | undefined
  /** What it sends as binary stays binary. */
  binary?: boolean | undefined
  /** It is told of its messages that `onMessageFunction` refuses. */
  rejections?: boolean | undefined
  /** It is told who is in its presence channels. */
  presence?: boolean | undefined
}

type OptionsUsed =
  | 'metaChannel'
  | 'envelopeClaims'
  | 'maxBufferedBytes'
  | 'maxTotalBufferedBytes'
  | 'slowTimeout'
  | 'maxMessageBytes'
  | 'maxConnections'
  | 'maxConnectionsPerIp'
  | 'messageRate'
  | 'onMessageFunction'
  | 'onDisconnectFunction'

export interface ClientsOptions extends Pick<ResolvedOptions, OptionsUsed> {
  hub: Hub
  outbox: Outbox
  replay: Replay
  presence: Presence
  presenceEvents: PresenceEvents
  metrics: Metrics
  /** This node's id. */
  node: () => string
  log: {
    debug(fields: object, message: string): void
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
  }
}

/**
 * The clients of this server: how they come, what they send, how they go. All kinds of connection come by `enter` and
 * go by `leave`, which each is told of by its transport; one whose transport has ended already does not come in.
 */
export class Clients {
  readonly connections = new Connections()
  /** What has been sent to all of them. */
  readonly sent = { messages: 0, bytes: 0 }
  /** How much waits for each of them. */
  readonly flow: FlowControl
  readonly #options: ClientsOptions
  readonly #context: ConnectionContext
  readonly #admission: Admission
  readonly attendance: Attendance
  /** How fast each of them may send. */
  readonly pace: Pace
  readonly #onError: (error: Error) => void
  readonly #onMessage: (this: WebSocket, data: RawData, isBinary: boolean) => void
  readonly #onPing: (this: WebSocket) => void
  #lastId = 0
  #leaving: Leaving | undefined

  constructor(options: ClientsOptions) {
    this.#options = options
    this.#admission = new Admission(options)
    const { messageRate, metrics, log } = options
    this.pace = new Pace(messageRate)
    this.flow = new FlowControl({
      ...options,
      onSlow: (bufferedBytes, reason) => {
        metrics.slowCloses.inc()
        log.warn({ bufferedBytes, reason }, 'closing a client that does not read, or not fast enough')
      }
    })
    this.#context = {
      flow: this.flow,
      sent: this.sent,
      onGone: (connection, code, reason) => this.leave(connection, code, reason)
    }
    this.attendance = new Attendance({
      ...options,
      showUsers: showsClaim(options.envelopeClaims, 'sub')
    })
    const clients = this
    // `ws` closes the socket with the code that fits (1007, 1009, 1002) before it emits the error.
    this.#onError = (error) => log.debug({ err: error }, 'websocket error')
    this.#onMessage = function (data, isBinary) {
      clients.#receive(WebSocketConnection.of(this), { data: data as Buffer, isBinary })
    }
    this.#onPing = function () {
      clients.#receive(WebSocketConnection.of(this), undefined)
    }
  }

  /** True once the server has begun to end: no new client is taken. */
  get closing(): boolean {
    return this.#leaving !== undefined
  }

  /**
   * Counts a client that is about to come in, for as long as its transport lives.
   * @throws TooManyConnections (503), TooManyConnectionsFromAddress (429)
   */
  admit(transport: Transport, address: string): void {
    whenGone(transport, this.#admission.admit(address))
  }

  /**
   * Takes an accepted socket into its channels.
   * @param webSocket an open socket; its errors are handled from here on
   * @param access what its token allows
   * @param address its client's IP address
   */
  connect(webSocket: WebSocket, access: Access, address: string, wishes: Wishes = {}): void {
    const connection = new WebSocketConnection(webSocket, access, this.optionsFor(access, address), wishes)
    webSocket.on('error', this.#onError)
    webSocket.on('pong', onPong)
    webSocket.on('ping', this.#onPing)
    webSocket.on('message', this.#onMessage)
    this.#join(connection, access, wishes)
  }

  /**
   * Takes a client that reads server-sent events into its channels.
   * @param response its head has been written
   */
  stream(response: ServerResponse, access: Access, address: string, wishes: Wishes = {}): void {
    const connection = new EventStream(response, access, this.optionsFor(access, address))
    response.on('error', this.#onError)
    this.#join(connection, access, wishes)
  }

  /** What a new connection is made of beside its socket. */
  optionsFor(access: Access, address: string): ConnectionOptions {
    return { id: ++this.#lastId, address, context: this.#context, ...this.#identity(access) }
  }

  /**
   * Counts a new connection, takes it into its channels, and tells of it.
   * @returns false where it has gone already: then nothing has happened
   */
  enter(connection: Connection, access: Access): boolean {
    if (!connection.open) return false
    const { hub, outbox, log } = this.#options
    const { id, address, channels, sender } = connection
    this.connections.add(connection)
    hub.join(connection, channels, connection)
    this.attendance.enter(connection)
    log.info({ connection: id, ip: address, channels: shown(channels) }, 'socket opened')
    outbox.tellMeta('ConnectionOpen', shown(channels).join(','), sender)
    outbox.tellFunction('connect', access.caller, { channels, connection: this.idOf(connection) })
    if (this.#leaving !== undefined) connection.close(this.#leaving.code, this.#leaving.reason)
    return true
  }

  /** A connection has got a new token. */
  renew(connection: Connection, access: Access): void {
    const { sender, caller } = this.#identity(access)
    Object.assign(connection, { sender, caller })
    this.connections.renew(connection, access.expiresAt)
  }

  /**
   * Undoes it, once.
   * @param told the channels to tell of, where it has left them already
   */
  leave(connection: Connection, code: number, reason: string, told = connection.channels): void {
    const { hub, outbox, metrics, log } = this.#options
    const { id, channels, openedAt, sender, caller } = connection
    if (!this.connections.delete(connection)) return
    this.flow.forget(connection)
    hub.leave(connection, channels, connection)
    this.attendance.leave(connection)
    metrics.closed(code)
    log.info({ connection: id, code, seconds: (Date.now() - openedAt) / 1000 }, 'socket closed')
    outbox.tellMeta('ConnectionClose', shown(told).join(','), sender)
    outbox.tellFunction('disconnect', caller, {
      channels: told,
      connection: this.idOf(connection),
      reason: `${code} ${reason}`.trimEnd()
    })
  }

  /**
   * Closes all of them; those that do not answer in time are ended.
   * @param time milliseconds
   */
  close(time: number, leaving: Leaving): Promise<void> {
    this.#leaving = leaving
    return this.connections.close(time, leaving)
  }

  /** The id that others know a connection by. */
  idOf(connection: Connection): string {
    return connectionId(this.#options.node(), connection)
  }

  /** What others, and functions of the database's owner, see of a client. */
  #identity({ write, claims, caller }: Access) {
    const { metaChannel, envelopeClaims, onMessageFunction, onDisconnectFunction } = this.#options
    const told = write || metaChannel !== undefined
    const calls = (write && onMessageFunction !== undefined) || onDisconnectFunction !== undefined
    return {
      sender: told ? senderOf(claims, envelopeClaims) : undefined,
      caller: calls ? caller : undefined
    }
  }

  #join(connection: Connection, access: Access, { since, presence }: Wishes): void {
    // Before it joins, so that nothing comes in between.
    if (since !== undefined) connection.hold()
    if (!this.enter(connection, access)) return
    if (presence) this.attendance.tell(connection)
    if (since === undefined || this.closing) return
    const { replay, log } = this.#options
    replay.resume(connection, since).catch((error) => {
      log.warn({ err: error, connection: connection.id }, 'messages could not be replayed')
      connection.close(CLOSE.NOT_PUBLISHED, 'messages could not be replayed')
    })
  }

  /** @param message undefined for a ping, which counts, too: `ws` answers each at once */
  #receive(connection: WebSocketConnection, message: RawMessage | undefined): void {
    if (!connection.listening) return
    connection.intake ??= new Intake(this.pace, {
      take: (message) => {
        if (message !== undefined && connection.write) this.#send(connection, message)
      },
      pause: () => connection.pause(PAUSED.INTAKE),
      resume: () => connection.resume(PAUSED.INTAKE)
    })
    connection.intake.receive([message].values())
  }

  #send(connection: WebSocketConnection, { data, isBinary }: RawMessage): void {
    const { outbox, metrics, maxMessageBytes, log } = this.#options
    const { channels, sender, caller } = connection
    if (connection.faulted) return
    metrics.messagesReceived.inc()
    metrics.bytesReceived.inc(data.length)
    if (data.length > maxMessageBytes) {
      connection.close(CLOSE.TOO_BIG, 'message too large')
      return
    }
    const text = data.toString('utf8')
    let notifications: Notification[]
    try {
      notifications = channels.map((channel) =>
        isBinary && connection.binary
          ? outbox.binaryNotification(channel, data, sender!, caller)
          : outbox.notification(channel, text, sender!, caller)
      )
    } catch (error) {
      connection.close(CLOSE.INVALID_DATA, messageOf(error))
      return
    }
    outbox.publish(notifications, true).catch((error) => {
      if (error instanceof errors.Rejected || error instanceof errors.RoleNotAllowed) {
        this.#tellRejected(connection, text, error as Error as Rejection)
        return
      }
      log.warn({ err: error, connection: connection.id }, 'a message was not published')
      if (error instanceof errors.BadMessage) {
        connection.close(CLOSE.INVALID_DATA, 'the database cannot hold the message')
        return
      }
      if (error instanceof errors.PayloadTooLarge) connection.close(CLOSE.TOO_BIG, 'message too large')
      else connection.close(CLOSE.NOT_PUBLISHED, 'message not published')
    })
    this.waitForDatabase(connection)
  }

  /** Does not read a socket while the database is behind: TCP slows its client down. */
  waitForDatabase(connection: Pausable): void {
    const { outbox } = this.#options
    if (!outbox.overloaded || (connection.paused & PAUSED.DATABASE) !== 0) return
    connection.pause(PAUSED.DATABASE)
    outbox.onDrain(() => connection.resume(PAUSED.DATABASE))
  }

  /** A message that a function refuses is its sender's affair; the connection goes on. */
  #tellRejected(connection: WebSocketConnection, payload: string, { message, sqlstate }: Rejection): void {
    this.#options.log.debug({ connection: connection.id, sqlstate }, 'a message was rejected')
    if (!connection.rejections) return
    const { channels } = connection
    const told = { channels, message, sqlstate: sqlstate ?? INSUFFICIENT_PRIVILEGE, payload }
    const frame = connection.format.encode(serverMessage(channels[0]!, { event: 'Rejected', payload: told }))
    connection.deliver([frame], frame.bytes)
  }
}

function shown(channels: readonly string[]): readonly string[] {
  return channels.filter(isPublicChannel)
}

function onPong(this: WebSocket): void {
  WebSocketConnection.of(this).unanswered = 0
}
