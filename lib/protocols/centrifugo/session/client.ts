import { type Access, type Caller, type Claims, permissionsIn, type Token } from '../../../auth/index.js'
import { MAX_INFO_BYTES } from '../../../clients/index.js'
import { errors } from '../../../errors.js'
import { JsonText } from '../../../json-text.js'
import type { Core } from '../../index.js'
import type { SdkConnection, SdkServices, SessionReplies } from '../services.js'
import { Subscriptions } from '../subscriptions/subscriptions.js'
import { connectionToken, GRACE, lifetime } from '../tokens.js'
import { CommandError, channelOf, DISCONNECT, DisconnectError, ERRORS, textOf } from '../wire/protocol.js'
import type { HistoryResult, Lifetime } from '../wire/replies.js'

/** How long a message may wait, in milliseconds. The SDK gives up after 5 s, and it must not be published after that. */
const PUBLISH_TIMEOUT = 4000

/** The identity of a client, from its connection token. */
export interface Identity {
  token: Token
  /** Its `channels` change with the subscriptions. */
  access: Access
}

/**
 * Identifies a client by its connection token.
 * @throws DisconnectError, TokenExpired, MalformedClaims, UnknownMode, KeysUnavailable, TooManyChannels, NotAuthorized
 */
export async function identify(
  { verifyToken, authorizer, limits }: Pick<Core, 'verifyToken' | 'authorizer' | 'limits'>,
  text: string
): Promise<Identity> {
  const { maxChannelsPerConnection: maxChannels } = limits
  const token = await connectionToken(verifyToken, text)
  if (Object.keys(token.subs).length > maxChannels) throw new errors.TooManyChannels(maxChannels)
  const caller = await authorizer.authorize(token, [], 'r')
  const { claims, subject, expiresAt, id: tokenId, issuedAt } = token
  const access = {
    channels: [],
    read: true,
    // A subscription token may allow writing, whatever this token says.
    write: true,
    expiresAt: expiresAt === undefined ? undefined : expiresAt + GRACE,
    subject,
    tokenId,
    issuedAt,
    claims,
    caller
  }
  return { token, access }
}

/** A client that has connected: its permissions, and its commands. */
export class SdkClient {
  readonly connection: SdkConnection
  readonly subscriptions: Subscriptions
  readonly access: Access
  readonly #services: SdkServices
  readonly #session: SessionReplies
  /** Channels that the client may write to, as far as that was checked. */
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
    this.#info = this.#publicInfo(token.claims)
    this.subscriptions = new Subscriptions(services, session, this)
  }

  /** Its connection token. A refresh replaces it. */
  get token(): Token {
    return this.#token
  }

  /** What others see of it in presence channels, in addition to its user. */
  get info(): unknown {
    return this.#info
  }

  /** Publishes a message. Replies when the database has accepted it, but resolves when the next command may be processed. */
  async publish(id: number, params: Record<string, unknown>): Promise<void> {
    const channel = channelOf(params)
    const { data } = params
    if (!(data instanceof JsonText || Buffer.isBuffer(data))) {
      throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'data is missing')
    }
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
    // Not awaited, so that messages that follow can share the next commit. The publisher keeps their order.
    this.#publish(channel, data, caller).then(
      () => this.#session.reply(id, 'publish', {}),
      (error) => this.#session.fail(error, id)
    )
  }

  async #publish(channel: string, data: JsonText | Buffer, caller: Caller | undefined): Promise<void> {
    const { clients, publisher } = this.#services.core
    const { connection } = this
    const sender = connection.sender!
    const notification =
      data instanceof JsonText
        ? publisher.notification(channel, data, sender, caller)
        : publisher.binaryNotification(channel, data, sender, caller)
    clients.received(connection, notification.payload.length)
    await clients.publish(connection, [notification], { wait: PUBLISH_TIMEOUT })
  }

  async history(params: Record<string, unknown>): Promise<HistoryResult> {
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

  /** Replaces the connection token by a new one of the same user. */
  async refresh(params: Record<string, unknown>): Promise<Lifetime> {
    const { clients, authorizer, verifyToken } = this.#services.core
    let token: Token
    try {
      token = await connectionToken(verifyToken, textOf(params, 'token'))
    } catch (error) {
      if (error instanceof errors.TokenExpired) throw new DisconnectError(DISCONNECT.EXPIRED)
      throw error
    }
    const { claims, expiresAt, id: tokenId, issuedAt } = token
    const { access } = this
    if (token.subject !== access.subject) {
      throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'it belongs to another user')
    }
    access.caller = await authorizer.authorize(token, [], 'r')
    if (this.#session.ended) return {}
    this.#token = token
    access.claims = claims
    this.#info = this.#publicInfo(claims)
    clients.renew(this.connection, {
      ...access,
      tokenId,
      issuedAt,
      expiresAt: expiresAt === undefined ? undefined : expiresAt + GRACE
    })
    this.#writable.clear()
    this.subscriptions.review()
    return lifetime(expiresAt)
  }

  /** The claim `info`; undefined if it is too large to show to others. */
  #publicInfo({ info }: Claims): unknown {
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
