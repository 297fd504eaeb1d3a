import { asBadMessage, errors, messageOf } from '../../../errors.js'
import { Intake } from '../../../flow/index.js'
import { JsonText, jsonObjectOf } from '../../../json-text.js'
import { VERSION } from '../../../version.js'
import type { SdkConnection, SdkServices, SessionReplies } from '../services.js'
import { lifetime } from '../tokens.js'
import {
  type Command,
  CommandError,
  channelOf,
  DISCONNECT,
  type Disconnect,
  DisconnectError,
  ERRORS,
  linesOf,
  PONG,
  type ProtocolError,
  REJECTED,
  type Result,
  readCommand,
  textOf
} from '../wire/protocol.js'
import { identified, SdkClient } from './client.js'
import type { SdkTransport } from './session-transport.js'

/** How long a client may take to send `connect`, in milliseconds. */
export const CONNECT_TIMEOUT = 10_000

/** How often clients are pinged (lib/clients/registry.ts), in seconds. The SDK waits for 10 s more. */
const PING_SECONDS = 30

/** The session of an SDK's client, from its first command to its end. Processes its commands in order, and replies. */
export class Session implements SessionReplies {
  readonly #services: SdkServices
  readonly #transport: SdkTransport
  readonly #intake: Intake<string>
  /** Undefined until the client has connected. */
  #client: SdkClient | undefined
  /** Whether `connect` has failed. The commands that came with it are discarded then. */
  #refused = false
  #ended = false

  constructor(services: SdkServices, transport: SdkTransport) {
    this.#services = services
    this.#transport = transport
    this.#intake = new Intake(services.core.clients.pace, {
      take: (line) => this.#take(line),
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

  /** Takes a text with commands. */
  receive(text: string): void {
    if (this.#ended) return
    // At once: the commands that wait before it must not make the client seem dead.
    if (text === PONG) this.#ponged()
    this.#intake.receive(linesOf(text))
  }

  /** Counts something other than a command, such as a ping, against the client's rate. */
  count(): void {
    if (!this.#ended) this.#intake.receiveOne('')
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

  reply(id: number, method: string, result: Result): void {
    this.#send(`{"id":${id},"${method}":${jsonObjectOf(result)}}`)
  }

  push(push: object): void {
    this.#send(JSON.stringify({ push }))
  }

  fail(error: unknown, id?: number): void {
    if (this.#ended) return
    if (error instanceof DisconnectError) {
      this.close(error.disconnect)
      return
    }
    const protocolError = this.#protocolError(error)
    if (id === undefined) this.close(DISCONNECT.SERVER_ERROR)
    else this.#send(JSON.stringify({ id, error: protocolError }))
  }

  #take(line: string): Promise<void> | undefined {
    if (this.#ended || line === '') return undefined
    let command: Command | undefined
    try {
      command = readCommand(line)
    } catch (error) {
      this.fail(error)
      return undefined
    }
    if (command !== undefined) return this.#run(command)
    this.#ponged()
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
      const result = await this.#handle(client, command)
      if (result !== undefined) this.reply(id, method, result)
    } catch (error) {
      this.#refused ||= method === 'connect'
      this.fail(error, id)
    }
  }

  /** @returns the result; undefined if the command is answered later, or not at all */
  async #handle(client: SdkClient, { id, method, params }: Command): Promise<Result | undefined> {
    switch (method) {
      case 'subscribe':
        client.subscriptions.subscribe(id, params)
        return undefined
      case 'unsubscribe':
        // The name is not checked, because the SDK drops its connection if this fails.
        await client.subscriptions.leave(textOf(params, 'channel'))
        return {}
      case 'sub_refresh':
        return client.subscriptions.refresh(params)
      case 'publish':
        await client.publish(id, params)
        return undefined
      case 'history':
        return client.history(params)
      case 'refresh':
        return client.refresh(params)
      case 'presence':
        await client.requireRead(channelOf(params))
        return this.#services.presence.list(channelOf(params))
      case 'presence_stats':
        await client.requireRead(channelOf(params))
        return this.#services.presence.stats(channelOf(params))
      case 'ping':
        return {}
      case 'send':
        return undefined
      case 'rpc':
        throw new CommandError(ERRORS.NOT_AVAILABLE)
      default:
        throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'an unknown method')
    }
  }

  async #connect({ id, params }: Command): Promise<void> {
    const services = this.#services
    const { clients } = services.core
    const identity = await identified(services.core, textOf(params, 'token'))
    if (this.#ended) return
    const client = new SdkClient(services, this, this.#transport.attach(identity.access), identity)
    this.#client = client
    clients.enter(client.connection, identity.access)
    const opened = await client.subscriptions.openServerSide(params.subs)
    if (this.#ended) return
    const subs = opened.map(({ subscription, result }) => [
      subscription.channel,
      new JsonText(jsonObjectOf(result))
    ])
    this.reply(id, 'connect', {
      client: clients.idOf(client.connection),
      version: `fastify-pg-websockets ${VERSION}`,
      ping: PING_SECONDS,
      pong: true,
      ...lifetime(client.token.expiresAt),
      ...this.#transport.details,
      subs: subs.length === 0 ? undefined : new JsonText(jsonObjectOf(Object.fromEntries(subs)))
    })
    for (const one of opened) client.subscriptions.answered(one, false)
  }

  #send(json: string): void {
    if (this.#ended) return
    const { connection } = this
    if (connection === undefined) {
      this.#transport.send(json)
      return
    }
    const bytes = connection.format.wrap(json)
    connection.deliver([{ bytes, position: undefined }], bytes)
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
    const { statusCode, message } = error as { statusCode?: number; message: string }
    if (statusCode === 403) return { ...ERRORS.PERMISSION_DENIED, message }
    if (statusCode === 400) return { ...ERRORS.BAD_REQUEST, message }
    if (statusCode !== 503) this.#services.core.log.error({ err: error }, 'a command failed')
    return ERRORS.INTERNAL
  }
}
