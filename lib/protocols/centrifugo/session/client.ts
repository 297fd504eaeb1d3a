import { type Access, type Caller, type Claims, permissionsIn, type Token } from '../../../auth/index.js'
import { MAX_INFO_BYTES } from '../../../clients/index.js'
import { errors } from '../../../errors.js'
import type { Core } from '../../index.js'
import type { SdkConnection, SdkServices, SessionReplies } from '../services.js'
import { Subscriptions } from '../subscriptions/subscriptions.js'
import { connectionToken, GRACE, lifetime } from '../tokens.js'
import {
  CommandError,
  channelOf,
  DISCONNECT,
  DisconnectError,
  ERRORS,
  type Result,
  textOf
} from '../wire/protocol.js'

/** An SDK gives up a publish after 5 s; it must not be published later, in milliseconds. */
const PATIENCE = 4000

/** Who a client is, by the token of its connection. */
export interface Identity {
  token: Token
  /** Its `channels` grow and shrink with the subscriptions. */
  access: Access
}

/**
 * Who a client is that connects.
 * @throws DisconnectError, TokenExpired, MalformedClaims, UnknownMode, KeysUnavailable, TooManyChannels, NotAuthorized
 */
export async function identified(
  { verifyToken, authorizer, limits }: Pick<Core, 'verifyToken' | 'authorizer' | 'limits'>,
  text: string
): Promise<Identity> {
  const { maxChannelsPerConnection: maxChannels } = limits
  const token = await connectionToken(verifyToken, text)
  if (Object.keys(token.subs).length > maxChannels) throw new errors.TooManyChannels(maxChannels)
  const caller = await authorizer.authorize(token, [], 'r')
  const { claims, subject, expiresAt } = token
  const access = {
    channels: [],
    read: true,
    // A subscription's token may allow it, whatever this one says.
    write: true,
    expiresAt: expiresAt === undefined ? undefined : expiresAt + GRACE,
    subject,
    claims,
    caller
  }
  return { token, access }
}

/** A client that has said who it is: what it may do, and what it publishes and asks for. */
export class SdkClient {
  readonly connection: SdkConnection
  readonly subscriptions: Subscriptions
  readonly access: Access
  readonly #services: SdkServices
  readonly #session: SessionReplies
  /** Channels that may be written, as far as it was asked. */
  readonly #writable = new Set<string>()
  #token: Token
  #info: unknown

  constructor(
    services: SdkServices,
    session: SessionReplies,
    connection: SdkConnection,
    { token, access }: Identity
  ) {
    this.#services = services
    this.#session = session
    this.connection = connection
    this.access = access
    this.#token = token
    this.#info = this.#shownInfo(token.claims)
    this.subscriptions = new Subscriptions(services, session, this)
  }

  /** The token of its connection; a new one replaces it. */
  get token(): Token {
    return this.#token
  }

  /** What others see of it in presence channels, beside its user. */
  get info(): unknown {
    return this.#info
  }

  /** Publishes, and replies when the database has accepted it. Resolves when the next command may be taken. */
  async publish(id: number, params: Record<string, unknown>): Promise<void> {
    const { channel, data } = { channel: channelOf(params), data: params.data }
    if (data === undefined) throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'data is missing')
    if (typeof params.type === 'number' && params.type > 0) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const { authorizer, limits } = this.#services.core
    const token = this.#token
    const { caller } = this.access
    const allowed = this.subscriptions.mayWrite(channel) || permissionsIn(token, channel).write
    if (!allowed) throw new CommandError(ERRORS.PERMISSION_DENIED)
    if (!this.#writable.has(channel)) {
      await authorizer.authorize(token, [channel], 'w')
      if (this.#writable.size >= limits.maxChannelsPerConnection) this.#writable.clear()
      this.#writable.add(channel)
    }
    // In order, but with no wait for the one before: what comes meanwhile shares the next commit.
    this.#publish(channel, data, caller).then(
      () => this.#session.reply(id, 'publish', {}),
      (error) => this.#session.fail(error, id)
    )
  }

  async #publish(channel: string, data: unknown, caller: Caller | undefined): Promise<void> {
    const { clients, publisher } = this.#services.core
    const { connection } = this
    const notification = publisher.notification(channel, data, connection.sender!, caller)
    clients.received(notification.payload.length)
    await clients.publish(connection, [notification], { wait: PATIENCE })
  }

  async history(params: Record<string, unknown>): Promise<Result> {
    const channel = channelOf(params)
    await this.requireRead(channel)
    return this.#services.recovery.history(channel, params, this.connection)
  }

  /** @throws CommandError, NotAuthorized */
  async requireRead(channel: string): Promise<void> {
    if (this.subscriptions.has(channel)) return
    const token = this.#token
    if (!permissionsIn(token, channel).read) throw new CommandError(ERRORS.PERMISSION_DENIED)
    await this.#services.core.authorizer.authorize(token, [channel], 'r')
  }

  /** A new token for the connection: of the same user, and not for less. */
  async refresh(params: Record<string, unknown>): Promise<Result> {
    const { clients, authorizer, verifyToken } = this.#services.core
    let token: Token
    try {
      token = await connectionToken(verifyToken, textOf(params, 'token'))
    } catch (error) {
      if (error instanceof errors.TokenExpired) throw new DisconnectError(DISCONNECT.EXPIRED)
      throw error
    }
    const { claims, expiresAt } = token
    const { access } = this
    if (token.subject !== access.subject) {
      throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'it belongs to another user')
    }
    access.caller = await authorizer.authorize(token, [], 'r')
    if (this.#session.ended) return {}
    this.#token = token
    access.claims = claims
    this.#info = this.#shownInfo(claims)
    clients.renew(this.connection, {
      ...access,
      expiresAt: expiresAt === undefined ? undefined : expiresAt + GRACE
    })
    this.#writable.clear()
    this.subscriptions.review()
    return lifetime(expiresAt)
  }

  /** The claim `info`, unless it is larger than what others are shown. */
  #shownInfo({ info }: Claims): unknown {
    if (info === undefined) return undefined
    const bytes = Buffer.byteLength(JSON.stringify(info))
    if (bytes <= MAX_INFO_BYTES) return info
    const { id } = this.connection
    this.#services.core.log.warn(
      { connection: id, bytes },
      `the claim "info" of a token is not shown to others: it is larger than ${MAX_INFO_BYTES} bytes of JSON`
    )
    return undefined
  }
}
