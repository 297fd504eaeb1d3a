import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Access, Revocations } from '../auth/index.js'
import { type Hub, isPublicChannel } from '../channels/index.js'
import type { ResolvedOptions } from '../config/index.js'
import { codeOf, statusCodeOf } from '../errors.js'
import type { EventLog } from '../events/index.js'
import { FlowControl, PAUSED, Pace, type Pausable } from '../flow/index.js'
import type { Log } from '../log.js'
import { type PresenceMember, senderOf, showsClaim } from '../messages/index.js'
import type { Metrics } from '../metrics.js'
import type { JoinLeavePush, Presence } from '../presence/index.js'
import type { Notification, Publisher } from '../publishing/index.js'
import type { CatchUp } from './catch-up.js'
import { ConnectionLimit } from './connection-limit.js'
import { CLOSE_REASONS, endOf } from './connections/close-reason.js'
import {
  CLOSE,
  type Connection,
  type ConnectionContext,
  type ConnectionOptions
} from './connections/connection.js'
import { connectionId } from './connections/filter.js'
import { ConnectionRegistry, type Leaving } from './connections/registry.js'
import { type Remote, UserAgents } from './connections/remote.js'
import { type Transport, type TransportName, whenEnded } from './connections/transport.js'
import { PresenceMembership } from './presence-membership.js'

/** What a client may ask for when it connects, in addition to its channels. */
export interface JoinOptions {
  /** The id of the last durable message that it has, or `earliest`: later messages are replayed. */
  since?: string | undefined
  /** How many of the last messages of each durable channel it receives first. Not used together with `since`. */
  last?: number | undefined
  /** Whether binary messages from it are delivered as binary. */
  binary?: boolean | undefined
  /** Whether it receives an event for each of its messages that `onMessageFunction` refuses. */
  rejections?: boolean | undefined
  /** Whether it receives the members of its presence channels, and their changes. */
  presence?: boolean | undefined
}

/** How many connections are closed in one turn of the event loop, so that deliveries continue in between. */
export const CLOSES_A_TURN = 100

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

/** A handshake that was refused. */
export interface Refusal {
  /** The client's IP address. */
  address: string
  transport: TransportName
  /** Without tokens. */
  error: Error
  /** Fields that describe the request in the log, without tokens. */
  request: object
}

export interface ClientsOptions extends Pick<ResolvedOptions, OptionsUsed> {
  hub: Hub
  publisher: Publisher
  catchUp: CatchUp
  presence: Presence
  joinLeavePush: JoinLeavePush
  revocations: Pick<Revocations, 'includes'>
  metrics: Metrics
  events: EventLog
  /** This node's id. */
  node: string
  log: Log
}

/**
 * The clients of this server: admission, publishing, and their end. Connections of all protocols pass through `enter`
 * and `leave`. `leave` is called when the transport has ended; a connection whose transport has ended before `enter` is
 * not entered.
 */
export class Clients {
  readonly connections = new ConnectionRegistry()
  /** Totals of what was sent to all clients. */
  readonly sent = { messages: 0, bytes: 0 }
  /** Limits how much may wait for clients. */
  readonly flow: FlowControl
  readonly #options: ClientsOptions
  readonly #context: ConnectionContext
  readonly #admission: ConnectionLimit
  readonly #membership: PresenceMembership
  /** Limits how fast clients may send. */
  readonly pace: Pace
  readonly #userAgents = new UserAgents()
  /** The connections of which messages are ignored. */
  readonly #ignoring = new WeakSet<Connection>()
  #lastId = 0
  #leaving: Leaving | undefined

  constructor(options: ClientsOptions) {
    this.#options = options
    this.#admission = new ConnectionLimit(options)
    const { messageRate, metrics, log } = options
    this.pace = new Pace(messageRate)
    this.flow = new FlowControl({
      ...options,
      onSlow: (bufferedBytes, reason) => {
        metrics.slowCloses.inc()
        log.warn({ bufferedBytes, reason }, 'closing a client that does not read fast enough')
      }
    })
    this.#context = {
      flow: this.flow,
      sent: this.sent,
      onEnd: (connection, code, reason) => this.leave(connection, code, reason),
      fallBehind: (connection, frames) => options.catchUp.fallBehind(connection, frames)
    }
    this.#membership = new PresenceMembership({
      ...options,
      showUsers: showsClaim(options.envelopeClaims, 'sub')
    })
  }

  /** Whether the server is shutting down, so that no client is admitted. */
  get closing(): boolean {
    return this.#leaving !== undefined
  }

  /**
   * Counts a client against the limits, before it is accepted and for as long as its transport lives.
   * @throws TooManyConnections (503), TooManyConnectionsFromAddress (429)
   */
  admit(transport: Transport, address: string): void {
    whenEnded(transport, this.#admission.admit(address))
  }

  /** The options of a new connection. */
  optionsFor(access: Access, { address, userAgent }: Remote): ConnectionOptions {
    const remote = { address, userAgent: this.#userAgents.shared(userAgent) }
    return { id: ++this.#lastId, remote, context: this.#context, ...this.#identity(access) }
  }

  /**
   * Registers a new connection, joins its channels, and publishes the event on the meta channel.
   * @returns false if the connection has ended already; nothing happens then
   */
  enter(connection: Connection, access: Access): boolean {
    if (!connection.open) return false
    const { hub, publisher, metaChannel, log } = this.#options
    const { id, address, channels, sender } = connection
    this.connections.add(connection)
    hub.join(connection, channels, connection)
    this.#membership.enter(connection)
    const named = publicOf(channels)
    log.info({ connection: id, ip: address, channels: named }, 'socket opened')
    // Texts that nobody receives are not built, because thousands of clients may connect at once.
    if (metaChannel !== undefined) publisher.publishMetaEvent('ConnectionOpen', named.join(','), sender)
    if (access.caller !== undefined) {
      publisher.callConnectionFunction('connect', access.caller, {
        channels,
        connection: this.idOf(connection)
      })
    }
    if (this.#leaving !== undefined) {
      const { code, reason, cause } = this.#leaving
      connection.goAway(code, reason, cause)
    }
    // After its token was verified, while the client was admitted.
    else if (this.#options.revocations.includes(connection)) connection.revoke()
    return true
  }

  /** Replaces the token of a connection. */
  renew(connection: Connection, access: Access): void {
    const { sender, caller } = this.#identity(access)
    const { tokenId, issuedAt } = access
    Object.assign(connection, { sender, caller, tokenId, issuedAt })
    this.connections.renew(connection, access.expiresAt)
    if (this.#options.revocations.includes(connection)) connection.revoke()
  }

  /** Closes the connections whose tokens were revoked. The first are closed at once, the others in the next turns. */
  async closeRevoked(): Promise<void> {
    const { revocations } = this.#options
    const revoked = [...this.connections].filter((connection) => revocations.includes(connection))
    for (const [index, connection] of revoked.entries()) {
      if (connection.open) connection.revoke()
      if (index % CLOSES_A_TURN === CLOSES_A_TURN - 1) await nextTurn()
    }
  }

  /**
   * Undoes `enter`. Does nothing when it is called again.
   * @param endedWith the close code, as the transport has it
   * @param left the channels that it has left, if `connection` does not have them any more
   */
  leave(connection: Connection, endedWith: number, reason: string, left = connection.channels): void {
    const { hub, publisher, metaChannel, metrics, events, log } = this.#options
    const { id, channels, openedAt, sender, caller, subject, address, transport } = connection
    if (!this.connections.delete(connection)) return
    this.flow.forget(connection)
    hub.leave(connection, channels, connection)
    this.#membership.leave(connection)
    const { code, cause } = endOf(connection.closedFor, endedWith)
    const closed = `${code} ${reason}`.trimEnd()
    metrics.closed(code, cause)
    log.info(
      { connection: id, code, reason: cause, seconds: (Date.now() - openedAt) / 1000 },
      'socket closed'
    )
    events.add('close', {
      level: CLOSE_REASONS[cause].level,
      text: `${CLOSE_REASONS[cause].text} (${closed})`,
      connection: this.idOf(connection),
      subject,
      address,
      channels: publicOf(left),
      transport,
      code,
      reason: cause
    })
    if (metaChannel !== undefined)
      publisher.publishMetaEvent('ConnectionClose', publicOf(left).join(','), sender)
    if (caller !== undefined) {
      publisher.callConnectionFunction('disconnect', caller, {
        channels: left,
        connection: this.idOf(connection),
        reason: closed
      })
    }
  }

  /**
   * Closes all connections. Those that do not answer in time are terminated.
   * @param time how long that may take, in milliseconds
   */
  close(time: number, leaving: Leaving): Promise<void> {
    this.#leaving = leaving
    return this.connections.close(time, leaving)
  }

  /** What others see of a connection in presence channels. */
  memberOf(connection: Connection): PresenceMember {
    return this.#membership.memberOf(connection)
  }

  /** The id of a connection, unique among all nodes. */
  idOf(connection: Connection): string {
    return connectionId(this.#options.node, connection)
  }

  /** What other clients and SQL functions see of a client. Undefined if neither can see it, to save memory. */
  #identity({ write, claims, caller }: Access) {
    const { metaChannel, envelopeClaims, onMessageFunction, onDisconnectFunction } = this.#options
    const needsSender = write || metaChannel !== undefined
    const calls = (write && onMessageFunction !== undefined) || onDisconnectFunction !== undefined
    return {
      sender: needsSender ? senderOf(claims, envelopeClaims) : undefined,
      caller: calls ? caller : undefined
    }
  }

  /**
   * Enters a connection with what its client asked for: the messages that it missed, or the last ones, and the members of
   * its presence channels.
   */
  join(connection: Connection, access: Access, { since, last, presence }: JoinOptions): void {
    const start = since !== undefined ? { since } : last !== undefined ? { last } : undefined
    // Before it joins, so that no message arrives in between.
    if (start !== undefined) connection.hold()
    if (!this.enter(connection, access)) return
    if (presence) this.#membership.subscribe(connection)
    if (start === undefined || this.closing) return
    const { catchUp, log } = this.#options
    catchUp.resume(connection, start).catch((error) => {
      log.warn({ err: error, connection: connection.id }, 'could not replay messages')
      connection.close(CLOSE.NOT_PUBLISHED, 'messages could not be replayed', 'not-resumed')
    })
  }

  /** Counts a message from a client. */
  received(connection: Connection, bytes: number): void {
    const { metrics } = this.#options
    connection.receivedMessages++
    metrics.messagesReceived.inc()
    metrics.bytesReceived.inc(bytes)
  }

  /** Counts a message from a client that may not write, where its protocol has no answer for that. */
  ignored(connection: Connection): void {
    const { metrics, events } = this.#options
    metrics.ignoredMessages.inc()
    // Once for each connection: there may be thousands of messages.
    if (this.#ignoring.has(connection)) return
    this.#ignoring.add(connection)
    const { subject, address, channels, transport } = connection
    events.add('ignored', {
      text: 'the token of the client does not allow writing: its messages are ignored',
      connection: this.idOf(connection),
      subject,
      address,
      channels: publicOf(channels),
      transport
    })
  }

  /** Counts and logs a handshake that was refused, and adds it to the events, with the answer that the client got or would get. */
  refused({ address, transport, error, request }: Refusal): void {
    const { metrics, events, log } = this.#options
    const code = codeOf(error) ?? 'unknown'
    const status = statusCodeOf(error)
    metrics.refusals.inc({ reason: code })
    log.info({ ...request, code }, `socket refused: ${error.message}`)
    const text = status === undefined ? error.message : `${status}: ${error.message}`
    events.add('refusal', { text, address, transport, code })
  }

  /**
   * Publishes messages from a client, in the order of the calls (see Publisher.publish). Resolves when the database has
   * accepted them. While too many messages wait for the database, the client is not read.
   */
  publish(
    connection: Pausable,
    notifications: readonly Notification[],
    how: Parameters<Publisher['publish']>[1]
  ): Promise<void> {
    const published = this.#options.publisher.publish(notifications, how)
    this.#waitForDatabase(connection)
    return published
  }

  /** Stops reading a client while too many messages wait for the database, so that TCP slows it down. */
  #waitForDatabase(connection: Pausable): void {
    const { publisher } = this.#options
    if (!publisher.overloaded || (connection.paused & PAUSED.DATABASE) !== 0) return
    connection.pause(PAUSED.DATABASE)
    publisher.onDrain(() => connection.resume(PAUSED.DATABASE))
  }
}

function publicOf(channels: readonly string[]): readonly string[] {
  return channels.filter(isPublicChannel)
}
