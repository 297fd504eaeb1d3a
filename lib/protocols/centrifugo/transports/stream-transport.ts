import type { ServerResponse } from 'node:http'
import type { Remote } from '../../../clients/index.js'
import { PAUSED } from '../../../flow/index.js'
import type { Core } from '../../index.js'
import type { Session } from '../session/session.js'
import type { SdkTransport } from '../session/session-transport.js'
import type { SdkFormat } from '../wire/formats.js'
import { DISCONNECT, type Disconnect } from '../wire/protocol.js'
import { causeOf } from './connections.js'
import { endStream, SdkStreamConnection } from './stream-connection.js'

export interface StreamTransportOptions {
  response: ServerResponse
  format: SdkFormat
  remote: Remote
  clients: Core['clients']
  /** Additional members of the reply to `connect`. */
  details: { session: string; node: string }
  /** How many bytes of commands may wait while the client is paused. */
  maxHeldBytes: number
}

/**
 * An HTTP response as the transport of a session. There is no socket that could be left unread, so commands that arrive
 * while the client is paused are held.
 */
export class StreamTransport implements SdkTransport {
  readonly format: SdkFormat
  readonly remote: Remote
  readonly details: StreamTransportOptions['details']
  readonly #options: StreamTransportOptions
  #connection: SdkStreamConnection | undefined
  #session: Session | undefined
  #held: Buffer[] = []
  #heldBytes = 0
  #turn: NodeJS.Immediate | undefined

  constructor(options: StreamTransportOptions) {
    this.#options = options
    this.format = options.format
    this.remote = options.remote
    this.details = options.details
  }

  /** Undefined until the client has connected. */
  get connection(): SdkStreamConnection | undefined {
    return this.#connection
  }

  /** Takes commands for its session. */
  receive(session: Session, data: Buffer): void {
    this.#session = session
    if (this.#held.length === 0 && !this.#paused) {
      session.receive(data)
      return
    }
    this.#held.push(data)
    this.#heldBytes += data.length
    if (this.#heldBytes > this.#options.maxHeldBytes) session.close(DISCONNECT.TOO_MANY_REQUESTS)
  }

  attach(access: Parameters<SdkTransport['attach']>[0]): SdkStreamConnection {
    const { response, format, remote, clients } = this.#options
    const options = clients.optionsFor(access, remote)
    this.#connection = new SdkStreamConnection(response, format, access, options, () => this.#read())
    return this.#connection
  }

  send(reply: Buffer): void {
    const { response } = this.#options
    if (!response.writableEnded) response.write(reply)
  }

  close(disconnect: Disconnect): void {
    const { response, format } = this.#options
    if (this.#connection === undefined) endStream(response, format, disconnect)
    else this.#connection.close(disconnect.code, disconnect.reason, causeOf(disconnect))
  }

  /** Does nothing without a connection, because the client does not know its session yet, and cannot send more. */
  pause(): void {
    this.#connection?.pause(PAUSED.INTAKE)
  }

  resume(): void {
    this.#connection?.resume(PAUSED.INTAKE)
  }

  get #paused(): boolean {
    return this.#connection !== undefined && this.#connection.paused !== 0
  }

  /** Processes one text per turn of the event loop, so that it can pause the client before the next. */
  #read(): void {
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined
      if (this.#paused || this.#held.length === 0) return
      const data = this.#held.shift()!
      this.#heldBytes -= data.length
      this.#session!.receive(data)
      this.#read()
    })
  }
}
