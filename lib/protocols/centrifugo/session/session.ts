import { asBadMessage, asError, errors, messageOf, statusCodeOf } from '../../../errors.js'
import { Intake } from '../../../flow/index.js'
import { VERSION } from '../../../version.js'
import type { SdkConnection, SdkServices, SessionReplies } from '../services.js'
import type { Opened } from '../subscriptions/subscriptions.js'
import { lifetime } from '../tokens.js'
import {
  type Command,
  CommandError,
  channelOf,
  DISCONNECT,
  type Disconnect,
  DisconnectError,
  ERRORS,
  type Incoming,
  PONG,
  type ProtocolError,
  REJECTED,
  textOf
} from '../wire/protocol.js'
import type { Method, Push, Reply, Results, SubscribeResult } from '../wire/replies.js'
import { identify, SdkClient } from './client.js'
import type { SdkTransport } from './session-transport.js'

/** How long a client may take to send `connect`, in milliseconds. */
export const CONNECT_TIMEOUT = 10_000

/** How often clients are pinged (lib/clients/connections/registry.ts), in seconds. The SDK waits for 10 s more. */
const PING_SECONDS = 30

/** The session of an SDK's client, from its first command to its end. Processes its commands in order, and replies. */
export class Session implements SessionReplies {
  readonly #services: SdkServices
  readonly #transport: SdkTransport
  readonly #intake: Intake<Incoming>
  /** Undefined until the client has connected. */
  #client: SdkClient | undefined
  /** Whether `connect` has failed. The commands that came with it are discarded then. */
  #refused = false
  #ended = false

  constructor(services: SdkServices, transport: SdkTransport) {
    this.#services = services
    this.#transport = transport
    this.#intake = new Intake(services.core.clients.pace, {
      take: (incoming) => this.#take(incoming),
      pause: () => transport.pause(),
      resume: () => transport.resume()
    })
  }

  /** Undefined until the client has connected. */
  get connection(): SdkConnection | undefined {
    return this.#client?.connection
  }

  get ended(): boolean {
    return this.#ended
  }

  /** Takes commands, in the encoding of the transport. */
  receive(data: Buffer): void {
    if (this.#ended) return
    const { format } = this.#transport
    // At once: the commands that wait before it must not make the client seem dead.
    if (format.isPong(data)) this.#ponged()
    this.#intake.receive(format.commandsIn(data))
  }

  /** Counts something other than a command, such as a ping, against the client's rate. */
  count(): void {
    if (!this.#ended) this.#intake.receiveOne(undefined)
  }

  /** Closes the session with a reason. */
  close(disconnect: Disconnect): void {
    if (this.#ended) return
    this.#transport.close(disconnect)
    this.end()
  }

  /** To be called when the transport has ended. */
  end(): void {
    this.#ended = true
    this.#intake.clear()
    this.#client?.subscriptions.end()
  }

  /** To be called when messages of channels that are not durable may be missing. */
  insufficient(): void {
    this.#client?.subscriptions.insufficient()
  }

  /** To be called when tokens were revoked. `Clients` closes the connections with revoked tokens. */
  tokensRevoked(): void {
    this.#client?.subscriptions.endRevoked()
  }

  reply<M extends Method>(id: number, method: M, result: Results[M]): void {
    // The method determines the type of the result.
    this.#send({ id, method, result } as Reply)
  }

  push(push: Push): void {
    this.#send({ push })
  }

  fail(error: unknown, id?: number): void {
    if (this.#ended) return
    if (error instanceof DisconnectError) {
      this.close(error.disconnect)
      return
    }
    const protocolError = this.#protocolError(error)
    if (id === undefined) this.close(DISCONNECT.SERVER_ERROR)
    else this.#send({ id, error: protocolError })
  }

  #take(incoming: Incoming): Promise<void> | undefined {
    if (this.#ended || incoming === undefined) return undefined
    if (incoming === PONG) this.#ponged()
    else if (incoming instanceof Error) this.fail(incoming)
    else return this.#run(incoming)
    return undefined
  }

  /** Never rejects. */
  async #run(command: Command): Promise<void> {
    if (this.#ended) return
    const { id, method } = command
    try {
      const client = this.#client
      if (method === 'connect') {
        if (client !== undefined) {
          throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'it is connected already')
        }
        await this.#connect(command)
        return
      }
      if (client === undefined) {
        // The SDK sends its subscriptions together with connect.
        if (this.#refused) return
        throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'the first command must be connect')
      }
      await this.#handle(client, command)
    } catch (error) {
      if (method === 'connect') this.#refuse(error)
      this.fail(error, id)
    }
  }

  /** Notes that `connect` has failed, which is this protocol's refused handshake. */
  #refuse(error: unknown): void {
    this.#refused = true
    const { remote, format } = this.#transport
    const reason = error instanceof DisconnectError ? (error.cause ?? error) : error
    this.#services.core.clients.refused({
      address: remote.address,
      transport: format.transport,
      error: asError(reason),
      request: { ip: remote.address }
    })
  }

  /** Handles a command, which may be answered later, or not at all. */
  async #handle(client: SdkClient, { id, method, params }: Command): Promise<void> {
    switch (method) {
      case 'subscribe':
        return client.subscriptions.subscribe(id, params)
      case 'unsubscribe':
        // The name is not checked, because the SDK drops its connection if this fails.
        await client.subscriptions.leave(textOf(params, 'channel'))
        return this.reply(id, method, {})
      case 'sub_refresh':
        return this.reply(id, method, await client.subscriptions.refresh(params))
      case 'publish':
        return client.publish(id, params)
      case 'history':
        return this.reply(id, method, await client.history(params))
      case 'refresh':
        return this.reply(id, method, await client.refresh(params))
      case 'presence':
        await client.requireRead(channelOf(params))
        return this.reply(id, method, await this.#services.presence.list(channelOf(params)))
      case 'presence_stats':
        await client.requireRead(channelOf(params))
        return this.reply(id, method, await this.#services.presence.stats(channelOf(params)))
      case 'ping':
        return this.reply(id, method, {})
      case 'send':
        return
      case 'rpc':
        throw new CommandError(ERRORS.NOT_AVAILABLE)
      default:
        throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'an unknown method')
    }
  }

  async #connect({ id, params }: Command): Promise<void> {
    const services = this.#services
    const { clients } = services.core
    const identity = await identify(services.core, textOf(params, 'token'))
    if (this.#ended) return
    const client = new SdkClient(services, this, this.#transport.attach(identity.access), identity)
    this.#client = client
    clients.enter(client.connection, identity.access)
    const opened = await client.subscriptions.openServerSide(params.subs)
    if (this.#ended) return
    this.reply(id, 'connect', {
      client: clients.idOf(client.connection),
      version: `fastify-pg-websockets ${VERSION}`,
      ping: PING_SECONDS,
      pong: true,
      ...lifetime(client.token.expiresAt),
      ...this.#transport.details,
      subs: resultsOf(opened)
    })
    for (const one of opened) client.subscriptions.answered(one, false)
  }

  #send(reply: Reply): void {
    if (this.#ended) return
    const bytes = this.#transport.format.reply(reply)
    const { connection } = this
    if (connection === undefined) this.#transport.send(bytes)
    else connection.deliver([{ bytes, position: undefined }], bytes)
  }

  /** Notes that the client has answered a ping. */
  #ponged(): void {
    if (this.connection !== undefined) this.connection.unanswered = 0
  }

  #protocolError(failure: unknown): ProtocolError {
    const error = asBadMessage(failure)
    if (error instanceof CommandError) return error.error
    if (error instanceof errors.TokenExpired) return ERRORS.TOKEN_EXPIRED
    if (error instanceof errors.Rejected) return { code: REJECTED, message: messageOf(error) }
    if (error instanceof errors.PayloadTooLarge) return ERRORS.LIMIT_EXCEEDED
    if (error instanceof errors.NotInstalled) return ERRORS.NOT_AVAILABLE
    const statusCode = statusCodeOf(error)
    const message = messageOf(error)
    if (statusCode === 403) return { ...ERRORS.PERMISSION_DENIED, message }
    if (statusCode === 400) return { ...ERRORS.BAD_REQUEST, message }
    if (statusCode !== 503) this.#services.core.log.error({ err: error }, 'a command failed')
    return ERRORS.INTERNAL
  }
}

/** The results of server-side subscriptions, by channel; undefined if there are none. */
function resultsOf(opened: readonly Opened[]): Record<string, SubscribeResult> | undefined {
  if (opened.length === 0) return undefined
  return Object.fromEntries(opened.map(({ subscription, result }) => [subscription.channel, result]))
}
