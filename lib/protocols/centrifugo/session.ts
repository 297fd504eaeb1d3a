import { type Claims, permissionsIn, type Token } from '../../auth/index.js'
import { Intake, MAX_INFO_BYTES } from '../../clients/index.js'
import { asBadMessage, errors } from '../../errors.js'
import {
  type Command,
  CommandError,
  channelOf,
  DISCONNECT,
  type Disconnect,
  DisconnectError,
  ERRORS,
  isObject,
  linesOf,
  PONG,
  type ProtocolError,
  REJECTED,
  readCommand,
  textOf,
  UNSUBSCRIBE
} from './protocol.js'
import type { SdkConnection, SdkServices, SessionAccess } from './services.js'
import type { SdkTransport } from './session-transport.js'
import { Subscription } from './subscription.js'
import { connectionToken, GRACE, type Grant, lifetime, subscriptionToken } from './tokens.js'

/** How long a client has for its `connect`, in milliseconds. */
export const CONNECT_TIMEOUT = 10_000

/** How often clients are pinged (lib/clients/registry.ts), in seconds; the SDK waits for 10 s more. */
const PING_SECONDS = 30

/** One client of the SDK: its commands, and its subscriptions. */
export class Session {
  readonly #services: SdkServices
  readonly #transport: SdkTransport
  readonly #subscriptions = new Map<string, Subscription>()
  /** Subscriptions that are not answered yet. */
  readonly #opening = new Map<string, Promise<void>>()
  /** Channels that may be written, as far as it was asked. */
  readonly #writable = new Set<string>()
  #connection: SdkConnection | undefined
  #access: SessionAccess | undefined
  /** The token of its connection. */
  #token: Token | undefined
  /** What others see of it in presence channels. */
  #info: unknown
  readonly #intake: Intake<string>
  /** A connect has failed: what came with it is discarded. */
  #refused = false
  #ended = false

  constructor(services: SdkServices, transport: SdkTransport) {
    this.#services = services
    this.#transport = transport
    this.#intake = new Intake(services.pace, {
      take: (line) => this.#take(line),
      pause: () => transport.pause(),
      resume: () => transport.resume()
    })
  }

  /** Undefined until the client has said who it is. */
  get connection(): SdkConnection | undefined {
    return this.#connection
  }

  get subscriptions(): Iterable<Subscription> {
    return this.#subscriptions.values()
  }

  /** Takes commands, in order. */
  receive(text: string): void {
    if (this.#ended) return
    // What comes before it must not make the client seem dead.
    if (text === PONG) this.#services.onPong(this.#connection)
    this.#intake.receive(linesOf(text))
  }

  /** Its client has sent what is no command, but work all the same. */
  count(): void {
    if (!this.#ended) this.#intake.receiveOne('')
  }

  /** Ends it with a reason. */
  close(disconnect: Disconnect): void {
    if (this.#ended) return
    this.#transport.close(disconnect)
    this.end()
  }

  /** To be called when the transport has ended. */
  end(): void {
    this.#ended = true
    this.#intake.clear()
    for (const subscription of [...this.#subscriptions.values()]) this.#drop(subscription)
  }

  /** A subscription's token has ended. */
  expire(subscription: Subscription): void {
    this.#unsubscribe(subscription, UNSUBSCRIBE.EXPIRED)
  }

  /** Messages of channels that nobody stores may be missing. */
  insufficient(): void {
    for (const subscription of [...this.#subscriptions.values()]) {
      if (!subscription.recoverable) this.#onInsufficient(subscription, false)
    }
  }

  #take(line: string): Promise<void> | undefined {
    if (this.#ended || line === '') return undefined
    let command: Command | undefined
    try {
      command = readCommand(line)
    } catch (error) {
      this.#fail(error)
      return undefined
    }
    if (command !== undefined) return this.#run(command)
    this.#services.onPong(this.#connection)
    return undefined
  }

  /** Never rejects. */
  async #run(command: Command): Promise<void> {
    if (this.#ended) return
    const { id, method, params } = command
    try {
      if (this.#connection === undefined && method !== 'connect') {
        // The SDK sends its subscriptions together with connect, whatever comes of that.
        if (this.#refused) return
        throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'the first command must be connect')
      }
      const result = await this.#handle(command, params)
      if (result !== undefined) this.#reply(id, method, result)
    } catch (error) {
      this.#refused ||= method === 'connect'
      this.#fail(error, id)
    }
  }

  /** @returns the result, as JSON; undefined where it is answered elsewhere, or not at all */
  async #handle({ id, method }: Command, params: Record<string, unknown>): Promise<string | undefined> {
    switch (method) {
      case 'connect':
        await this.#connect(id, params)
        return undefined
      case 'subscribe':
        this.#subscribe(id, params)
        return undefined
      case 'unsubscribe':
        // Whatever the name is: the SDK drops its connection where this fails.
        return this.#leave(textOf(params, 'channel'))
      case 'publish':
        await this.#publish(id, params)
        return undefined
      case 'history':
        return this.#history(params)
      case 'refresh':
        return this.#refresh(params)
      case 'sub_refresh':
        return this.#subRefresh(params)
      case 'ping':
        return '{}'
      case 'send':
        return undefined
      case 'presence':
        await this.#requireRead(channelOf(params))
        return this.#services.presence.list(channelOf(params))
      case 'presence_stats':
        await this.#requireRead(channelOf(params))
        return this.#services.presence.stats(channelOf(params))
      case 'rpc':
        throw new CommandError(ERRORS.NOT_AVAILABLE)
      default:
        throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'an unknown method')
    }
  }

  async #connect(id: number, params: Record<string, unknown>): Promise<void> {
    if (this.#connection !== undefined) {
      throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'it is connected already')
    }
    const services = this.#services
    const token = await connectionToken(this.#services.verifyToken, textOf(params, 'token'))
    const { claims, subject, expiresAt: exp } = token
    const serverSide = Object.entries(token.subs)
    if (serverSide.length > services.maxChannels) throw new errors.TooManyChannels(services.maxChannels)
    const caller = await services.authorizer.authorize(token, [], 'r')
    if (this.#ended) return
    this.#token = token
    this.#access = {
      channels: [],
      read: true,
      // A subscription's token may allow it, whatever this one says.
      write: true,
      expiresAt: exp === undefined ? undefined : exp + GRACE,
      subject,
      claims,
      caller
    }
    this.#connection = this.#transport.attach(this.#access)
    const connection = this.#connection
    this.#info = this.#shownInfo(claims)
    services.enter(connection, this.#access)
    const wanted = isObject(params.subs) ? params.subs : {}
    const opened = await Promise.all(
      serverSide.map(async ([channel, granted]) => {
        const asked = Object.hasOwn(wanted, channel) ? wanted[channel] : undefined
        const position = isObject(asked) ? asked : {}
        const data = isObject(granted) ? granted.data : undefined
        const open = await this.#open(channel, position, true).catch(() => undefined)
        return open && { ...open, result: withFields(open.result, { data }) }
      })
    )
    if (this.#ended) return
    const open = opened.filter((one) => one !== undefined)
    const subs = open.map(({ subscription, result }) => `${JSON.stringify(subscription.channel)}:${result}`)
    const result = JSON.stringify({
      client: services.idOf(connection),
      version: services.version,
      ping: PING_SECONDS,
      pong: true,
      ...lifetime(exp),
      ...this.#transport.details
    })
    this.#reply(id, 'connect', subs.length === 0 ? result : `${result.slice(0, -1)},"subs":{${subs}}}`)
    for (const { subscription, start } of open) {
      subscription.answered = true
      start()
      this.#attend(subscription, false)
    }
  }

  /** Answers later; other channels go on meanwhile. */
  #subscribe(id: number, params: Record<string, unknown>): void {
    const channel = channelOf(params)
    if (this.#subscriptions.has(channel) || this.#opening.has(channel)) {
      throw new CommandError(ERRORS.ALREADY_SUBSCRIBED)
    }
    if (this.#subscriptions.size + this.#opening.size >= this.#services.maxChannels) {
      throw new CommandError(ERRORS.LIMIT_EXCEEDED)
    }
    if (params.tf !== undefined) throw new CommandError(ERRORS.BAD_REQUEST, 'tag filters are not supported')
    if (typeof params.type === 'number' && params.type > 0) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const answered = (async () => {
      try {
        const token = textOf(params, 'token')
        const granted = token === '' ? undefined : await this.#granted(channel, token)
        const { subscription, result, start } = await this.#open(channel, params, false, granted)
        if (subscription.refusal !== undefined) throw new CommandError(subscription.refusal)
        subscription.answered = true
        this.#reply(id, 'subscribe', withFields(result, lifetime(granted?.exp)))
        start()
        this.#services.expiry.add(this, subscription)
        this.#attend(subscription, params.join_leave === true)
      } catch (error) {
        if (!this.#ended) this.#fail(error, id)
      } finally {
        this.#opening.delete(channel)
      }
    })()
    this.#opening.set(channel, answered)
  }

  /**
   * Takes the client into a channel.
   * @param granted by a token of the subscription's own
   * @returns the result for the reply; `start` delivers what comes after it
   */
  async #open(
    channel: string,
    params: Record<string, unknown>,
    serverSide: boolean,
    granted?: Grant
  ): Promise<{ subscription: Subscription; result: string; start: () => void }> {
    const services = this.#services
    const allowed = serverSide || granted !== undefined
    let token = this.#token!
    let leaveRaw = await this.#admit(token, channel, allowed)
    // What its token allowed is of no account once that has been replaced.
    while (!this.#ended && token !== this.#token) {
      leaveRaw?.()
      token = this.#token!
      leaveRaw = await this.#admit(token, channel, allowed)
    }
    if (this.#ended) {
      leaveRaw?.()
      throw new DisconnectError(DISCONNECT.STALE)
    }
    const recoverable = services.durable.ageOf(channel) !== undefined
    const subscription = new Subscription({
      channel,
      connection: this.#connection!,
      serverSide,
      recoverable,
      maxHeldBytes: services.maxBufferedBytes,
      onInsufficient: (one, told) => this.#onInsufficient(one, told)
    })
    subscription.leaveRaw = leaveRaw
    if (granted !== undefined) {
      subscription.ownToken = true
      subscription.write = granted.write
      subscription.expiresAt = granted.exp === undefined ? undefined : granted.exp + GRACE
    }
    subscription.permissions = {
      read: true,
      write: subscription.write || permissionsIn(token, channel).write
    }
    services.hub.join(subscription, [channel], subscription.permissions)
    this.#subscriptions.set(channel, subscription)
    this.#access!.channels.push(channel)
    if (!recoverable) return { subscription, result: '{}', start: () => subscription.release(undefined) }
    try {
      const { result, follow } = await services.recovery.recover(subscription, this.#connection!, params)
      return { subscription, result, start: follow }
    } catch (error) {
      this.#drop(subscription)
      throw error
    }
  }

  /**
   * Asks whether a client may read a channel.
   * @param allowed by a token of the subscription's own, or as a server-side subscription
   * @returns what ends the LISTEN of a raw channel
   * @throws CommandError, NotAuthorized
   */
  async #admit(token: Token, channel: string, allowed: boolean): Promise<(() => void) | undefined> {
    if (!allowed && !permissionsIn(token, channel).read) throw new CommandError(ERRORS.PERMISSION_DENIED)
    await this.#services.authorizer.authorize(token, [channel], 'r')
    return this.#services.rawChannels.join([channel])
  }

  async #leave(channel: string): Promise<string> {
    await this.#opening.get(channel)
    const subscription = this.#subscriptions.get(channel)
    if (subscription !== undefined) this.#drop(subscription)
    return '{}'
  }

  async #publish(id: number, params: Record<string, unknown>): Promise<void> {
    const { channel, data } = { channel: channelOf(params), data: params.data }
    if (data === undefined) throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'the data are missing')
    if (typeof params.type === 'number' && params.type > 0) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const token = this.#token!
    const { caller } = this.#access!
    const allowed = this.#subscriptions.get(channel)?.write || permissionsIn(token, channel).write
    if (!allowed) throw new CommandError(ERRORS.PERMISSION_DENIED)
    if (!this.#writable.has(channel)) {
      await this.#services.authorizer.authorize(token, [channel], 'w')
      if (this.#writable.size >= this.#services.maxChannels) this.#writable.clear()
      this.#writable.add(channel)
    }
    // In order, but with no wait for the one before: what comes meanwhile shares the next commit.
    this.#services.publish(this.#connection!, channel, data, caller).then(
      () => this.#reply(id, 'publish', '{}'),
      (error) => this.#fail(error, id)
    )
  }

  async #history(params: Record<string, unknown>): Promise<string> {
    const channel = channelOf(params)
    await this.#requireRead(channel)
    return this.#services.recovery.history(channel, params, this.#connection!)
  }

  /** @throws CommandError, NotAuthorized */
  async #requireRead(channel: string): Promise<void> {
    if (this.#subscriptions.has(channel)) return
    const token = this.#token!
    if (!permissionsIn(token, channel).read) throw new CommandError(ERRORS.PERMISSION_DENIED)
    await this.#services.authorizer.authorize(token, [channel], 'r')
  }

  /** A new token for the connection: of the same user, and not for less. */
  async #refresh(params: Record<string, unknown>): Promise<string> {
    let token: Token
    try {
      token = await connectionToken(this.#services.verifyToken, textOf(params, 'token'))
    } catch (error) {
      if (error instanceof errors.TokenExpired) throw new DisconnectError(DISCONNECT.EXPIRED)
      throw error
    }
    const { claims, expiresAt: exp } = token
    const access = this.#access!
    if (token.subject !== access.subject) {
      throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'it is of another user')
    }
    access.caller = await this.#services.authorizer.authorize(token, [], 'r')
    if (this.#ended) return '{}'
    this.#token = token
    access.claims = claims
    this.#info = this.#shownInfo(claims)
    this.#services.renew(this.#connection!, access, exp === undefined ? undefined : exp + GRACE)
    this.#writable.clear()
    for (const subscription of [...this.#subscriptions.values()]) {
      const { channel, ownToken, serverSide } = subscription
      const allowed = serverSide
        ? Object.hasOwn(token.subs, channel)
        : ownToken || permissionsIn(token, channel).read
      if (!allowed) this.#unsubscribe(subscription, UNSUBSCRIBE.SERVER)
    }
    return JSON.stringify(lifetime(exp))
  }

  async #subRefresh(params: Record<string, unknown>): Promise<string> {
    const channel = channelOf(params)
    if (typeof params.type === 'number' && params.type > 0) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const subscription = this.#subscriptions.get(channel)
    if (subscription === undefined) throw new CommandError(ERRORS.PERMISSION_DENIED)
    let granted: Grant
    try {
      granted = await this.#granted(channel, textOf(params, 'token'))
    } catch (error) {
      // An end that has come already is told by the end itself.
      if (error instanceof errors.TokenExpired) return '{}'
      if (error instanceof CommandError) throw new DisconnectError(DISCONNECT.INVALID_TOKEN)
      throw error
    }
    this.#services.expiry.delete(subscription)
    subscription.ownToken = true
    subscription.write = granted.write
    subscription.expiresAt = granted.exp === undefined ? undefined : granted.exp + GRACE
    this.#services.expiry.add(this, subscription)
    return JSON.stringify(lifetime(granted.exp))
  }

  /** The claim `info`, unless it is larger than what others are shown. */
  #shownInfo({ info }: Claims): unknown {
    if (info === undefined) return undefined
    const bytes = Buffer.byteLength(JSON.stringify(info))
    if (bytes <= MAX_INFO_BYTES) return info
    const { id } = this.#connection!
    this.#services.log.warn(
      { connection: id, bytes },
      `the claim "info" of a token is not shown: it has more than ${MAX_INFO_BYTES} bytes of JSON`
    )
    return undefined
  }

  /** What a subscription's own token allows; throws as subscriptionToken. */
  #granted(channel: string, token: string): Promise<Grant> {
    const { verifyToken, idOf } = this.#services
    return subscriptionToken(verifyToken, token, {
      channel,
      subject: this.#access!.subject,
      client: idOf(this.#connection!)
    })
  }

  /** From its reply on a client is in the channel; its own coming is told after that. */
  #attend(subscription: Subscription, told: boolean): void {
    if (this.#subscriptions.get(subscription.channel) !== subscription) return
    this.#services.presence.enter(subscription, this.#connection!, { told, info: this.#info })
  }

  #onInsufficient(subscription: Subscription, told: boolean): void {
    if (subscription.serverSide) this.close(DISCONNECT.INSUFFICIENT_STATE)
    else if (told) this.#drop(subscription)
    else this.#unsubscribe(subscription, UNSUBSCRIBE.INSUFFICIENT_STATE)
  }

  /** Takes a client out of a channel, and tells it so. */
  #unsubscribe(subscription: Subscription, { code, reason }: Disconnect): void {
    if (this.#subscriptions.get(subscription.channel) !== subscription) return
    this.#drop(subscription)
    if (!subscription.answered) {
      subscription.refusal = code === UNSUBSCRIBE.SERVER.code ? ERRORS.PERMISSION_DENIED : ERRORS.INTERNAL
      return
    }
    this.#push({ channel: subscription.channel, unsubscribe: { code, reason } })
  }

  #drop(subscription: Subscription): void {
    const { channel, leaveRaw } = subscription
    if (this.#subscriptions.get(channel) !== subscription) return
    this.#subscriptions.delete(channel)
    this.#services.expiry.delete(subscription)
    this.#services.presence.leave(subscription, this.#connection!, this.#ended)
    this.#services.hub.leave(subscription, [channel], subscription.permissions)
    leaveRaw?.()
    const { channels } = this.#access!
    channels.splice(channels.indexOf(channel), 1)
  }

  #push(push: object): void {
    this.#send(JSON.stringify({ push }))
  }

  /** @param result JSON, even where it is empty: without it the SDK stops */
  #reply(id: number, method: string, result: string): void {
    this.#send(`{"id":${id},"${method}":${result}}`)
  }

  #send(json: string): void {
    if (this.#ended) return
    if (this.#connection === undefined) this.#transport.send(json)
    else this.#services.deliver(this.#connection, json)
  }

  #fail(error: unknown, id?: number): void {
    if (this.#ended) return
    if (error instanceof DisconnectError) {
      this.close(error.disconnect)
      return
    }
    const told = this.#protocolError(error)
    if (id === undefined) this.close(DISCONNECT.SERVER_ERROR)
    else this.#send(JSON.stringify({ id, error: told }))
  }

  #protocolError(failure: unknown): ProtocolError {
    const error = asBadMessage(failure)
    if (error instanceof CommandError) return error.error
    if (error instanceof errors.TokenExpired) return ERRORS.TOKEN_EXPIRED
    if (error instanceof errors.Rejected) return { code: REJECTED, message: (error as Error).message }
    if (error instanceof errors.PayloadTooLarge) return ERRORS.LIMIT_EXCEEDED
    if (error instanceof errors.NotInstalled) return ERRORS.NOT_AVAILABLE
    const { statusCode, message } = error as { statusCode?: number; message: string }
    if (statusCode === 403) return { ...ERRORS.PERMISSION_DENIED, message }
    if (statusCode === 400) return { ...ERRORS.BAD_REQUEST, message }
    if (statusCode !== 503) this.#services.log.error({ err: error }, 'a command failed')
    return ERRORS.INTERNAL
  }
}

/** A JSON object with some more fields. */
function withFields(json: string, fields: object): string {
  const more = JSON.stringify(fields).slice(1, -1)
  if (more === '') return json
  return json === '{}' ? `{${more}}` : `${json.slice(0, -1)},${more}}`
}
