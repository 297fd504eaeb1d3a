import type { Access } from '../auth/index.js'
import { type Hub, isPublicChannel } from '../channels/index.js'
import type { ResolvedOptions } from '../config/index.js'
import { FlowControl, PAUSED, Pace, type Pausable } from '../flow/index.js'
import type { Log } from '../log.js'
import { type PresenceMember, senderOf, showsClaim } from '../messages/index.js'
import type { Metrics } from '../metrics.js'
import type { JoinLeavePush, Presence } from '../presence/index.js'
import type { Notification, Publisher } from '../publishing/index.js'
import type { CatchUp } from './catch-up.js'
import { CLOSE, type Connection, type ConnectionContext, type ConnectionOptions } from './connection.js'
import { ConnectionLimit } from './connection-limit.js'
import { connectionId } from './filter.js'
import { PresenceMembership } from './presence-membership.js'
import { ConnectionRegistry, type Leaving } from './registry.js'
import { type Transport, whenGone } from './transport.js'

/** What a client asks for beside its channels. */
export interface JoinOptions {
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
  publisher: Publisher
  catchUp: CatchUp
  presence: Presence
  joinLeavePush: JoinLeavePush
  metrics: Metrics
  /** This node's id. */
  node: string
  log: Log
}

/**
 * The clients of this server: how they come, what they send, how they go. All kinds of connection come by `enter` and
 * go by `leave`, which each is told of by its transport; one whose transport has ended already does not come in.
 */
export class Clients {
  readonly connections = new ConnectionRegistry()
  /** What has been sent to all of them. */
  readonly sent = { messages: 0, bytes: 0 }
  /** How much waits for each of them. */
  readonly flow: FlowControl
  readonly #options: ClientsOptions
  readonly #context: ConnectionContext
  readonly #admission: ConnectionLimit
  readonly #membership: PresenceMembership
  /** How fast each of them may send. */
  readonly pace: Pace
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
      onGone: (connection, code, reason) => this.leave(connection, code, reason)
    }
    this.#membership = new PresenceMembership({
      ...options,
      showUsers: showsClaim(options.envelopeClaims, 'sub')
    })
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
    const { hub, publisher, log } = this.#options
    const { id, address, channels, sender } = connection
    this.connections.add(connection)
    hub.join(connection, channels, connection)
    this.#membership.enter(connection)
    log.info({ connection: id, ip: address, channels: shown(channels) }, 'socket opened')
    publisher.tellMeta('ConnectionOpen', shown(channels).join(','), sender)
    publisher.tellFunction('connect', access.caller, { channels, connection: this.idOf(connection) })
    if (this.#leaving !== undefined) connection.goAway(this.#leaving.code, this.#leaving.reason)
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
    const { hub, publisher, metrics, log } = this.#options
    const { id, channels, openedAt, sender, caller } = connection
    if (!this.connections.delete(connection)) return
    this.flow.forget(connection)
    hub.leave(connection, channels, connection)
    this.#membership.leave(connection)
    metrics.closed(code)
    log.info({ connection: id, code, seconds: (Date.now() - openedAt) / 1000 }, 'socket closed')
    publisher.tellMeta('ConnectionClose', shown(told).join(','), sender)
    publisher.tellFunction('disconnect', caller, {
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

  /** What others see of a connection in presence channels. */
  memberOf(connection: Connection): PresenceMember {
    return this.#membership.memberOf(connection)
  }

  /** The id that others know a connection by. */
  idOf(connection: Connection): string {
    return connectionId(this.#options.node, connection)
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

  /**
   * The same with what its client asks for: what it missed comes first, then who is there.
   * @param requested what the client asks for beside its channels
   */
  join(connection: Connection, access: Access, { since, presence }: JoinOptions): void {
    // Before it joins, so that nothing comes in between.
    if (since !== undefined) connection.hold()
    if (!this.enter(connection, access)) return
    if (presence) this.#membership.tell(connection)
    if (since === undefined || this.closing) return
    const { catchUp, log } = this.#options
    catchUp.resume(connection, since).catch((error) => {
      log.warn({ err: error, connection: connection.id }, 'could not replay messages')
      connection.close(CLOSE.NOT_PUBLISHED, 'messages could not be replayed')
    })
  }

  /** Counts a message of a client that is to be published. */
  received(bytes: number): void {
    const { metrics } = this.#options
    metrics.messagesReceived.inc()
    metrics.bytesReceived.inc(bytes)
  }

  /**
   * Publishes what a client has sent, in the order of the calls. See Publisher.publish: resolves when the database has
   * accepted it. Where the database is behind, the client is not read until it has caught up.
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

  /** Does not read a socket while the database is behind: TCP slows its client down. */
  #waitForDatabase(connection: Pausable): void {
    const { publisher } = this.#options
    if (!publisher.overloaded || (connection.paused & PAUSED.DATABASE) !== 0) return
    connection.pause(PAUSED.DATABASE)
    publisher.onDrain(() => connection.resume(PAUSED.DATABASE))
  }
}

function shown(channels: readonly string[]): readonly string[] {
  return channels.filter(isPublicChannel)
}
