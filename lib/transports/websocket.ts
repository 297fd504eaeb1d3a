import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'
import type { WebSocket } from 'ws'
import type { Access } from '../auth/index.js'
import type { Format, Frame } from '../channels/index.js'
import {
  type CloseReason,
  Connection,
  type ConnectionOptions,
  mayPing,
  type Pinged,
  type TransportName
} from '../clients/index.js'
import { codeOf } from '../errors.js'
import { type Intake, type Pausable, unsentBytesOf } from '../flow/index.js'
import { whenDrained } from './drained.js'
import { messageIn, webSocketFrames } from './frames.js'

/** How often to look whether messages have been compressed, in milliseconds. */
const COMPRESSION_INTERVAL = 20

/** A websocket that has been accepted. */
export interface AcceptedSocket {
  /** It is open. */
  webSocket: WebSocket
  /** The network socket, or the stream that a test uses instead. */
  socket: Duplex
}

/** A message from a raw websocket client. */
export interface RawMessage {
  data: Buffer
  isBinary: boolean
}

const kConnection = Symbol('pgws connection')

/** A websocket with a reference to its connection, for the listeners that all websockets share. */
type ConnectedWebSocket = WebSocket & { [kConnection]: WebSocketConnection }

/**
 * A client on a websocket. Frames that are shared by many clients are written directly to the socket, not through `ws`.
 * That is safe because `ws` writes each of its own frames (ping, pong, close) at once, unless it compresses.
 */
export class WebSocketConnection extends Connection implements Pausable, Pinged {
  readonly format: Format = webSocketFrames
  readonly webSocket: WebSocket
  readonly #socket: Duplex
  /** Whether its binary messages are delivered as binary. */
  readonly binary: boolean
  /** Whether it receives an event for each of its messages that is rejected. */
  readonly rejections: boolean
  unanswered = 0
  paused = 0
  /** The queue of its messages. It is created with the first one. */
  intake: Intake<RawMessage | undefined> | undefined
  /** Why the server closed it: because of the shutdown, or because of the client. */
  #closed: 'server ends' | 'fault' | undefined

  /**
   * @param accepted its listeners find the connection with `of`
   * @param joinOptions the options that the client has requested
   */
  constructor(
    { webSocket, socket }: AcceptedSocket,
    access: Access,
    options: ConnectionOptions,
    {
      binary = false,
      rejections = false
    }: { binary?: boolean | undefined; rejections?: boolean | undefined } = {}
  ) {
    super(access, options)
    this.webSocket = webSocket
    this.#socket = socket
    this.binary = binary
    this.rejections = rejections
    // The types of `ws` do not have the property.
    ;(webSocket as ConnectedWebSocket)[kConnection] = this
    webSocket.on('close', onClose)
  }

  /** The connection of a socket. */
  static of(webSocket: WebSocket): WebSocketConnection {
    // As above.
    return (webSocket as ConnectedWebSocket)[kConnection]
  }

  get transport(): TransportName {
    return 'websocket'
  }

  /**
   * Whether its messages are still processed. At shutdown they are, until the client has seen the close. After a fault of
   * the client they are not.
   */
  get listening(): boolean {
    return this.open || this.#closed === 'server ends'
  }

  /** Whether it was closed because of a fault of the client. Its messages that still wait are dropped then. */
  get faulted(): boolean {
    return this.#closed === 'fault'
  }

  get open(): boolean {
    return this.webSocket.readyState === this.webSocket.OPEN
  }

  get bufferedBytes(): number {
    return this.webSocket.bufferedAmount
  }

  get unsentBytes(): number {
    return unsentBytesOf(this.#socket)
  }

  get copiedBytes(): number {
    if (this.webSocket.extensions !== '') return this.bufferedBytes
    return this.#socket instanceof TLSSocket ? this.unsentBytes : 0
  }

  protected send(frames: readonly Frame[], joined: Buffer): void {
    writeFrames(this.webSocket, this.#socket, frames, joined)
  }

  async drained(): Promise<void> {
    // What `ws` compresses has not reached the socket yet.
    const { webSocket } = this
    while (
      this.open &&
      webSocket.extensions !== '' &&
      webSocket.bufferedAmount > this.#socket.writableLength
    ) {
      await sleep(COMPRESSION_INTERVAL, undefined, { ref: false })
    }
    if (this.open) await whenDrained(this.#socket)
  }

  /**
   * Sends a ping. A client that has answered neither of the last two is terminated, unless the server has stopped reading
   * it, or it takes what waits before the pings.
   */
  ping(): void {
    if (mayPing(this, this.webSocket.isPaused || this.reading)) this.webSocket.ping()
    else {
      this.closing('no-pong')
      this.terminate()
    }
  }

  pause(reason: number): void {
    // The client's close frame must be read.
    if (this.paused === 0 && this.#closed === undefined) this.webSocket.pause()
    this.paused |= reason
  }

  resume(reason: number): void {
    this.paused &= ~reason
    if (this.paused === 0) this.webSocket.resume()
  }

  override goAway(code: number, reason: string, cause: CloseReason): void {
    const first = this.open
    this.close(code, reason, cause)
    if (first) this.#closed = 'server ends'
  }

  protected sendClose(code: number, reason: string): void {
    this.#closed = 'fault'
    this.webSocket.close(code, reason)
    // To read the client's close frame.
    this.webSocket.resume()
  }

  terminate(): void {
    this.webSocket.terminate()
  }

  /**
   * To be called with an error of the websocket. `ws` closes it with the right code before it emits an error of the client.
   * https://github.com/websockets/ws/blob/master/doc/ws.md#error-codes
   */
  failed(error: Error): void {
    const code = codeOf(error)
    if (code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH') this.closedFor ??= 'too-large'
    else if (code === 'WS_ERR_INVALID_UTF8') this.closedFor ??= 'invalid'
    else if (code?.startsWith('WS_ERR_')) this.closedFor ??= 'protocol'
  }
}

/**
 * Writes frames to an open websocket.
 * @param joined the same bytes in one buffer
 */
export function writeFrames(
  webSocket: WebSocket,
  socket: Duplex,
  frames: readonly Frame[],
  joined: Buffer
): void {
  if (webSocket.extensions === '') {
    socket.write(joined)
    return
  }
  for (const frame of frames) {
    const { data, binary } = messageIn(frame)
    webSocket.send(data, { binary })
  }
}

/** One listener for all websockets, to save memory. */
function onClose(this: WebSocket, code: number, reason: Buffer): void {
  const connection = WebSocketConnection.of(this)
  const ended = () => connection.ended(code, reason.toString())
  // First process what it sent before it closed.
  if (connection.intake?.busy) connection.intake.finish().then(ended)
  else ended()
}
