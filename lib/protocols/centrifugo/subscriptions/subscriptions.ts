import { type Access, permissionsIn, type Token } from '../../../auth/index.js'
import { errors } from '../../../errors.js'
import { isObject } from '../../../json-value.js'
import type { SdkConnection, SdkServices, SessionReplies } from '../services.js'
import { GRACE, type Grant, lifetime, subscriptionToken } from '../tokens.js'
import {
  CommandError,
  channelOf,
  DISCONNECT,
  type Disconnect,
  DisconnectError,
  ERRORS,
  textOf,
  UNSUBSCRIBE
} from '../wire/protocol.js'
import type { Lifetime, SubscribeResult } from '../wire/replies.js'
import { Subscription, type SubscriptionOwner } from './subscription.js'

/** The part of a client that its subscriptions use. */
export interface Subscribing {
  readonly connection: SdkConnection
  readonly access: Access
  /** Its connection token. A refresh replaces it. */
  readonly token: Token
  /** What others see of it in presence channels, in addition to its user. */
  readonly info: unknown
}

/** A subscription of which the client has not been informed yet. */
export interface Opened {
  subscription: Subscription
  /** The result for the reply. */
  result: SubscribeResult
  /** Starts the delivery of messages, after the reply. */
  start: () => void
}

/** The subscriptions of one client. Opens, refreshes and ends them. */
export class Subscriptions implements SubscriptionOwner {
  readonly #services: SdkServices
  readonly #session: SessionReplies
  readonly #client: Subscribing
  readonly #byChannel = new Map<string, Subscription>()
  /** Subscriptions that have not been answered yet. */
  readonly #opening = new Map<string, Promise<void>>()

  constructor(services: SdkServices, session: SessionReplies, client: Subscribing) {
    this.#services = services
    this.#session = session
    this.#client = client
  }

  has(channel: string): boolean {
    return this.#byChannel.has(channel)
  }

  /** Whether a subscription token allows the client to publish to the channel. */
  mayWrite(channel: string): boolean {
    return this.#byChannel.get(channel)?.write === true
  }

  /** Subscribes, and answers later, so that commands for other channels need not wait. @throws CommandError */
  subscribe(id: number, params: Record<string, unknown>): void {
    const channel = channelOf(params)
    if (this.#byChannel.has(channel) || this.#opening.has(channel)) {
      throw new CommandError(ERRORS.ALREADY_SUBSCRIBED)
    }
    const { maxChannelsPerConnection: maxChannels } = this.#services.core.limits
    if (this.#byChannel.size + this.#opening.size >= maxChannels && this.#count() >= maxChannels) {
      throw new CommandError(ERRORS.LIMIT_EXCEEDED)
    }
    if (params.tf !== undefined) throw new CommandError(ERRORS.BAD_REQUEST, 'tag filters are not supported')
    if (typeof params.type === 'number' && params.type > 0) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const answered = this.#subscribe(id, channel, params).finally(() => this.#opening.delete(channel))
    this.#opening.set(channel, answered)
  }

  /** The number of channels. One that is about to be answered is in both maps. */
  #count(): number {
    let count = this.#byChannel.size
    for (const channel of this.#opening.keys()) if (!this.#byChannel.has(channel)) count++
    return count
  }

  /** Never rejects. */
  async #subscribe(id: number, channel: string, params: Record<string, unknown>): Promise<void> {
    try {
      const token = textOf(params, 'token')
      const granted = token === '' ? undefined : await this.#granted(channel, token)
      const opened = await this.#open(channel, params, { granted })
      const { refusal } = opened.subscription
      if (refusal !== undefined) throw new CommandError(refusal)
      this.#session.reply(id, 'subscribe', { ...opened.result, ...lifetime(granted?.exp) })
      this.answered(opened, params.join_leave === true)
    } catch (error) {
      this.#session.fail(error, id)
    }
  }

  /**
   * Subscribes the client to the channels of the claim `subs` of its token.
   * @param wanted the client's positions in these channels, as it sent them
   * @returns the subscriptions that are allowed
   */
  async openServerSide(wanted: unknown): Promise<Opened[]> {
    const positions = isObject(wanted) ? wanted : {}
    const opened = await Promise.all(
      Object.entries(this.#client.token.subs).map(async ([channel, granted]) => {
        const requested = Object.hasOwn(positions, channel) ? positions[channel] : undefined
        const position = isObject(requested) ? requested : {}
        const data = isObject(granted) ? granted.data : undefined
        const open = await this.#open(channel, position, { serverSide: true }).catch(() => undefined)
        return open && { ...open, result: { ...open.result, data } }
      })
    )
    return opened.filter((one) => one !== undefined)
  }

  /**
   * To be called when the client has been informed of a subscription, which starts now.
   * @param joinLeave whether the client receives join and leave pushes, its own included
   */
  answered({ subscription, start }: Opened, joinLeave: boolean): void {
    subscription.answered = true
    start()
    if (this.#byChannel.get(subscription.channel) !== subscription) return
    this.#expireLater(subscription)
    const { connection, info } = this.#client
    this.#services.presence.enter(subscription, connection, { joinLeave, info })
  }

  /** Unsubscribes from a channel, if the client is subscribed. */
  async leave(channel: string): Promise<void> {
    await this.#opening.get(channel)
    const subscription = this.#byChannel.get(channel)
    if (subscription !== undefined) this.#drop(subscription)
  }

  /** Replaces the token of a subscription. @throws CommandError, DisconnectError, KeysUnavailable */
  async refresh(params: Record<string, unknown>): Promise<Lifetime> {
    const channel = channelOf(params)
    if (typeof params.type === 'number' && params.type > 0) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const subscription = this.#byChannel.get(channel)
    if (subscription === undefined) throw new CommandError(ERRORS.PERMISSION_DENIED)
    let granted: Grant
    try {
      granted = await this.#granted(channel, textOf(params, 'token'))
    } catch (error) {
      // The subscription expires on its own.
      if (error instanceof errors.TokenExpired) return {}
      if (error instanceof CommandError) throw new DisconnectError(DISCONNECT.INVALID_TOKEN)
      throw error
    }
    this.#keep(subscription)
    grant(subscription, granted)
    this.#expireLater(subscription)
    return lifetime(granted.exp)
  }

  /** Ends the subscriptions that a new connection token does not allow. */
  review(): void {
    const { token } = this.#client
    for (const subscription of [...this.#byChannel.values()]) {
      const { channel, ownToken, serverSide } = subscription
      const allowed = serverSide
        ? Object.hasOwn(token.subs, channel)
        : ownToken || permissionsIn(token, channel).read
      if (!allowed) this.#unsubscribe(subscription, UNSUBSCRIBE.SERVER)
    }
  }

  /** Ends the subscriptions whose own tokens were revoked. */
  endRevoked(): void {
    const { revocations } = this.#services.core
    for (const subscription of [...this.#byChannel.values()]) {
      const { tokenIdentity } = subscription
      if (tokenIdentity !== undefined && revocations.includes(tokenIdentity)) {
        this.#unsubscribe(subscription, UNSUBSCRIBE.SERVER)
      }
    }
  }

  behind(subscription: Subscription, after: number): void {
    const { connection } = this.#client
    connection.fellBehind()
    this.#services.recovery.follow(subscription, connection, after)
  }

  expire(subscription: Subscription): void {
    this.#unsubscribe(subscription, UNSUBSCRIBE.EXPIRED)
  }

  incomplete(subscription: Subscription, notified: boolean): void {
    if (subscription.serverSide) this.#session.close(DISCONNECT.INSUFFICIENT_STATE)
    else if (notified) this.#drop(subscription)
    else this.#unsubscribe(subscription, UNSUBSCRIBE.INSUFFICIENT_STATE)
  }

  /** To be called when messages of channels that are not durable may be missing. */
  insufficient(): void {
    for (const subscription of [...this.#byChannel.values()]) {
      if (!subscription.recoverable) this.incomplete(subscription, false)
    }
  }

  /** To be called when the session has ended. */
  end(): void {
    for (const subscription of [...this.#byChannel.values()]) this.#drop(subscription)
  }

  /**
   * Opens a subscription.
   * @param by what allows it besides the connection token: a subscription token, or the claim `subs`
   */
  async #open(
    channel: string,
    params: Record<string, unknown>,
    { granted, serverSide = false }: { granted?: Grant | undefined; serverSide?: boolean }
  ): Promise<Opened> {
    const { core, recovery, ends } = this.#services
    const { connection, access } = this.#client
    const leave = await this.#admit(channel, serverSide || granted !== undefined)
    if (granted !== undefined && core.revocations.includes(granted.identity)) {
      leave?.()
      throw new CommandError(ERRORS.PERMISSION_DENIED)
    }
    const recoverable = core.durable.ageOf(channel) !== undefined
    const subscription = new Subscription({
      channel,
      connection,
      serverSide,
      recoverable,
      maxHeldBytes: core.limits.maxBufferedBytes,
      owner: this,
      ends
    })
    subscription.leave = leave
    if (granted !== undefined) grant(subscription, granted)
    subscription.permissions = {
      read: true,
      write: subscription.write || permissionsIn(this.#client.token, channel).write
    }
    core.hub.join(subscription, [channel], subscription.permissions)
    this.#byChannel.set(channel, subscription)
    access.channels.push(channel)
    if (!recoverable) return { subscription, result: {}, start: () => subscription.startLive() }
    try {
      const { result, follow } = await recovery.recover(subscription, connection, params)
      return { subscription, result, start: follow }
    } catch (error) {
      this.#drop(subscription)
      throw error
    }
  }

  /**
   * Checks that the client may read a channel.
   * @param allowed whether a subscription token or the claim `subs` allows it
   * @returns a function that ends what its messages need to arrive here
   * @throws CommandError, NotAuthorized; DisconnectError if the client has disconnected in the meantime
   */
  async #admit(channel: string, allowed: boolean): Promise<(() => void) | undefined> {
    const { authorizer, listened } = this.#services.core
    for (;;) {
      const { token } = this.#client
      if (!allowed && !permissionsIn(token, channel).read) throw new CommandError(ERRORS.PERMISSION_DENIED)
      await authorizer.authorize(token, [channel], 'r')
      const leave = await listened.join([channel])
      if (!this.#session.ended && token === this.#client.token) return leave
      leave?.()
      // The connection token was replaced in the meantime, so check again.
      if (this.#session.ended) throw new DisconnectError(DISCONNECT.STALE)
    }
  }

  /** What a subscription token allows. @throws as subscriptionToken */
  #granted(channel: string, token: string): Promise<Grant> {
    const { verifyToken, clients } = this.#services.core
    const { access, connection } = this.#client
    return subscriptionToken(verifyToken, token, {
      channel,
      subject: access.subject,
      client: clients.idOf(connection)
    })
  }

  #expireLater(subscription: Subscription): void {
    const { expiresAt } = subscription
    if (expiresAt !== undefined) this.#services.expiry.add(subscription, expiresAt)
  }

  #keep(subscription: Subscription): void {
    const { expiresAt } = subscription
    if (expiresAt !== undefined) this.#services.expiry.delete(subscription, expiresAt)
  }

  /** Ends a subscription, and informs the client. */
  #unsubscribe(subscription: Subscription, { code, reason }: Disconnect): void {
    if (this.#byChannel.get(subscription.channel) !== subscription) return
    this.#drop(subscription)
    if (!subscription.answered) {
      subscription.refusal = code === UNSUBSCRIBE.SERVER.code ? ERRORS.PERMISSION_DENIED : ERRORS.INTERNAL
      return
    }
    this.#session.push({ channel: subscription.channel, unsubscribe: { code, reason } })
  }

  #drop(subscription: Subscription): void {
    const { channel, leave } = subscription
    if (this.#byChannel.get(channel) !== subscription) return
    this.#byChannel.delete(channel)
    subscription.ended = true
    const { core, presence } = this.#services
    const { connection, access } = this.#client
    this.#keep(subscription)
    presence.leave(subscription, connection, this.#session.ended)
    core.hub.leave(subscription, [channel], subscription.permissions)
    leave?.()
    access.channels.splice(access.channels.indexOf(channel), 1)
  }
}

/** Applies a subscription token. */
function grant(subscription: Subscription, { write, exp, identity }: Grant): void {
  subscription.ownToken = true
  subscription.write = write
  subscription.tokenIdentity = identity
  subscription.expiresAt = exp === undefined ? undefined : exp + GRACE
}
