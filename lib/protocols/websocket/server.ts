import type { RawData, WebSocket } from 'ws'
import type { Access } from '../../auth/index.js'
import { CLOSE, type JoinOptions, type Remote } from '../../clients/index.js'
import { errors, messageOf } from '../../errors.js'
import { Intake, PAUSED } from '../../flow/index.js'
import { serverMessage } from '../../messages/index.js'
import { MAY_WAIT, type Notification, type Rejection } from '../../publishing/index.js'
import { type AcceptedSocket, type RawMessage, WebSocketConnection } from '../../transports/index.js'
import { type Core, Protocol } from '../index.js'

/** The SQLSTATE for a role that the server may not switch to (errcodes-appendix.html). */
const INSUFFICIENT_PRIVILEGE = '42501'

/** Serves clients without a protocol beyond websocket messages. Each message goes to all channels of its client. */
export class WebSocketServer extends Protocol {
  readonly #onError: (this: WebSocket, error: Error) => void
  readonly #onMessage: (this: WebSocket, data: RawData, isBinary: boolean) => void
  readonly #onPing: (this: WebSocket) => void

  constructor(core: Core) {
    super(core)
    const server = this
    // Before `ws` emits the error, it closes the socket with the right code (1007, 1009, 1002).
    this.#onError = function (error) {
      core.log.debug({ err: error }, 'websocket error')
      WebSocketConnection.of(this).failed(error)
    }
    this.#onMessage = function (data, isBinary) {
      // With the default `binaryType`, messages are Buffers.
      server.#receive(WebSocketConnection.of(this), { data: data as Buffer, isBinary })
    }
    this.#onPing = function () {
      server.#receive(WebSocketConnection.of(this), undefined)
    }
  }

  /**
   * Takes over an accepted websocket.
   * @param accepted its errors are handled from here on
   * @param access what the client's token allows
   * @param remote the client, as its request describes it
   */
  connect(accepted: AcceptedSocket, access: Access, remote: Remote, joinOptions: JoinOptions = {}): void {
    const { webSocket } = accepted
    const { clients } = this.core
    const options = clients.optionsFor(access, remote)
    const connection = new WebSocketConnection(accepted, access, options, joinOptions)
    webSocket.on('error', this.#onError)
    webSocket.on('pong', onPong)
    webSocket.on('ping', this.#onPing)
    webSocket.on('message', this.#onMessage)
    clients.join(connection, access, joinOptions)
  }

  /** @param message undefined for a ping, which counts against the rate, because `ws` answers each one */
  #receive(connection: WebSocketConnection, message: RawMessage | undefined): void {
    if (!connection.listening) return
    connection.intake ??= new Intake(this.core.clients.pace, {
      take: (message) => {
        if (message === undefined) return
        if (connection.write) this.#send(connection, message)
        // As with postgres-websockets, the client gets no answer.
        else this.core.clients.ignored(connection)
      },
      pause: () => connection.pause(PAUSED.INTAKE),
      resume: () => connection.resume(PAUSED.INTAKE)
    })
    connection.intake.receiveOne(message)
  }

  #send(connection: WebSocketConnection, { data, isBinary }: RawMessage): void {
    const { clients, publisher, durable, limits, log } = this.core
    const { channels, sender, caller } = connection
    if (connection.faulted) return
    clients.received(connection, data.length)
    if (data.length > limits.maxMessageBytes) {
      connection.close(CLOSE.TOO_BIG, 'message too large', 'too-large')
      return
    }
    const text = data.toString('utf8')
    let notifications: Notification[]
    try {
      notifications = channels.map((channel) =>
        isBinary && connection.binary && durable.ageOf(channel) !== undefined
          ? publisher.binaryNotification(channel, data, sender!, caller)
          : publisher.notification(channel, text, sender!, caller)
      )
    } catch (error) {
      connection.close(CLOSE.INVALID_DATA, messageOf(error), 'invalid')
      return
    }
    clients.publish(connection, notifications, MAY_WAIT).catch((error) => {
      if (isRejection(error)) {
        this.#sendRejection(connection, text, error)
        return
      }
      log.warn({ err: error, connection: connection.id }, 'a message was not published')
      if (error instanceof errors.BadMessage) {
        connection.close(CLOSE.INVALID_DATA, 'the database cannot store the message', 'invalid')
        return
      }
      if (error instanceof errors.PayloadTooLarge) {
        connection.close(CLOSE.TOO_BIG, 'message too large', 'too-large')
      } else connection.close(CLOSE.NOT_PUBLISHED, 'message not published', 'not-published')
    })
  }

  /** Tells the sender that an SQL function refused its message. The connection stays open. */
  #sendRejection(connection: WebSocketConnection, payload: string, { message, sqlstate }: Rejection): void {
    this.core.log.debug({ connection: connection.id, sqlstate }, 'a message was rejected')
    if (!connection.rejections) return
    const { channels } = connection
    const rejection = { channels, message, sqlstate: sqlstate ?? INSUFFICIENT_PRIVILEGE, payload }
    const frame = connection.format.encode(
      serverMessage(channels[0]!, { event: 'Rejected', payload: rejection })
    )
    connection.deliver([frame], frame.bytes)
  }
}

/** Whether a function refused a message. Then the error has the function's SQLSTATE (lib/publishing/function-calls.ts). */
function isRejection(error: unknown): error is Rejection {
  return error instanceof errors.Rejected || error instanceof errors.RoleNotAllowed
}

function onPong(this: WebSocket): void {
  WebSocketConnection.of(this).unanswered = 0
}
