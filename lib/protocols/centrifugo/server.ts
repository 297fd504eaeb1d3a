import type { ServerResponse } from 'node:http'
import type { RawData } from 'ws'
import { Expiry, type Remote } from '../../clients/index.js'
import { PAUSED } from '../../flow/index.js'
import { type AcceptedSocket, writeFrames } from '../../transports/index.js'
import { type Core, Protocol } from '../index.js'
import type { Emulation } from './emulation/emulation.js'
import type { SdkConnection, SdkServices } from './services.js'
import { CONNECT_TIMEOUT, Session } from './session/session.js'
import type { SdkTransport } from './session/session-transport.js'
import { SdkPresence } from './subscriptions/presence.js'
import { Recovery } from './subscriptions/recovery.js'
import { Ends, type Subscription } from './subscriptions/subscription.js'
import { causeOf, SdkWebSocketConnection } from './transports/connections.js'
import { StreamTransport } from './transports/stream-transport.js'
import type { SdkFormat } from './wire/formats.js'
import { DISCONNECT, type Disconnect } from './wire/protocol.js'

/** Serves clients that speak Centrifugo's client protocol. */
export class CentrifugoServer extends Protocol {
  readonly #emulation: Emulation
  readonly #services: SdkServices
  readonly #sessions = new Set<Session>()
  /** Sessions that have not connected yet. */
  readonly #unconnected = new Expiry<Session>((session) => {
    if (session.connection === undefined) session.close(DISCONNECT.STALE)
  })

  /** @param emulation finds the sessions of clients on HTTP transports, on any node */
  constructor(core: Core, emulation: Emulation) {
    super(core)
    this.#emulation = emulation
    this.#services = {
      core,
      recovery: new Recovery(core),
      presence: new SdkPresence(core),
      expiry: new Expiry<Subscription>((subscription) => subscription.expire()),
      ends: new Ends()
    }
  }

  /**
   * Takes over an accepted websocket.
   * @param accepted its errors are handled from here on
   * @param format frames for websockets, in the encoding that the client speaks
   * @param remote the client, as its request describes it
   */
  connect(accepted: AcceptedSocket, format: SdkFormat, remote: Remote): void {
    const { webSocket } = accepted
    const { clients, log } = this.core
    const transport = new WebSocketTransport(accepted, format, remote, clients)
    const session = this.#begin(transport)
    webSocket.on('error', (error) => {
      log.debug({ err: error }, 'websocket error')
      transport.failed(error)
    })
    // With the default `binaryType`, messages are Buffers.
    webSocket.on('message', (data: RawData) => session.receive(data as Buffer))
    webSocket.on('ping', () => session.count())
    webSocket.on('close', (code, reason) => this.#end(session, code, reason.toString()))
    if (clients.closing) session.close(DISCONNECT.SHUTDOWN)
  }

  /**
   * Takes over a client on an HTTP transport. Its commands after the first ones arrive through `emulation`.
   * @param response the response to write to; its head has been written
   * @param commands the first commands
   * @param remote the client, as its request describes it
   */
  stream(response: ServerResponse, format: SdkFormat, commands: Buffer, remote: Remote): void {
    const { clients, limits, log } = this.core
    response.on('error', (error) => log.debug({ err: error }, 'stream error'))
    if (response.destroyed) return
    const { details, end } = this.#emulation.begin((data) => transport.receive(session, data))
    const transport = new StreamTransport({
      response,
      format,
      remote,
      clients,
      details,
      maxHeldBytes: limits.maxBufferedBytes
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

  /**
   * Takes commands of a client on an HTTP transport, which may be connected to any node.
   * @param session the secret that the client received when it connected; `node` likewise
   * @returns whether the session exists
   * @throws NodesUnavailable (503) if the session is on another node, and the database is unavailable
   */
  receive(session: string, node: string, commands: Buffer): Promise<boolean> {
    return this.#emulation.receive(session, node, commands)
  }

  override listenerReconnected(): void {
    for (const session of this.#sessions) session.insufficient()
  }

  override tokensRevoked(): void {
    for (const session of this.#sessions) session.tokensRevoked()
  }

  /** Closes the sessions that have not connected yet. `Clients` closes the others. */
  override close(): void {
    for (const session of this.#sessions) {
      if (session.connection === undefined) session.close(DISCONNECT.SHUTDOWN)
    }
    this.#unconnected.stop()
    this.#services.expiry.stop()
    this.#services.presence.stop()
  }

  #begin(transport: SdkTransport): Session {
    const session = new Session(this.#services, transport)
    this.#sessions.add(session)
    this.#unconnected.add(session, Date.now() + CONNECT_TIMEOUT)
    return session
  }

  #end(session: Session, code: number, reason: string): void {
    const { connection } = session
    const channels = [...(connection?.channels ?? [])]
    session.end()
    this.#sessions.delete(session)
    if (connection !== undefined) this.core.clients.leave(connection, code, reason, channels)
  }
}

class WebSocketTransport implements SdkTransport {
  readonly format: SdkFormat
  readonly remote: Remote
  readonly details = {}
  readonly #accepted: AcceptedSocket
  readonly #clients: Core['clients']
  #connection: SdkWebSocketConnection | undefined

  constructor(accepted: AcceptedSocket, format: SdkFormat, remote: Remote, clients: Core['clients']) {
    this.#accepted = accepted
    this.format = format
    this.remote = remote
    this.#clients = clients
  }

  attach(access: Parameters<SdkTransport['attach']>[0]): SdkConnection {
    const options = this.#clients.optionsFor(access, this.remote)
    this.#connection = new SdkWebSocketConnection(this.#accepted, this.format, access, options)
    return this.#connection
  }

  send(reply: Buffer): void {
    const { webSocket, socket } = this.#accepted
    if (webSocket.readyState !== webSocket.OPEN) return
    writeFrames(webSocket, socket, [{ bytes: reply, position: undefined }], reply)
  }

  close(disconnect: Disconnect): void {
    const { code, reason } = disconnect
    if (this.#connection === undefined) this.#accepted.webSocket.close(code, reason)
    else this.#connection.close(code, reason, causeOf(disconnect))
  }

  failed(error: Error): void {
    this.#connection?.failed(error)
  }

  pause(): void {
    if (this.#connection === undefined) this.#accepted.webSocket.pause()
    else this.#connection.pause(PAUSED.INTAKE)
  }

  resume(): void {
    if (this.#connection === undefined) this.#accepted.webSocket.resume()
    else this.#connection.resume(PAUSED.INTAKE)
  }
}
