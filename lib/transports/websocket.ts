import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { WebSocket } from 'ws'
import type { Access } from '../auth/index.js'
import type { Format, Frame } from '../channels/index.js'
import { Connection, type ConnectionOptions } from '../clients/index.js'
import { type Intake, type Pausable, unsentBytesOf } from '../flow/index.js'
import { messageIn, webSocketFrames } from './frames.js'

/** How many pings may go without a pong. */
const MAX_UNANSWERED = 2

/** A websocket that has been accepted. */
export interface AcceptedSocket {
  /** It is open. */
  webSocket: WebSocket
  /** What carries it: a socket of the network, or what a test has instead. */
  socket: Duplex
}

/** What a raw client has sent. */
export interface RawMessage {
  data: Buffer
  isBinary: boolean
}

const kConnection = Symbol('pgws connection')

/** A socket that carries its connection: listeners that all sockets share have no other way to it. */
type ConnectedWebSocket = WebSocket & { [kConnection]: WebSocketConnection }

/**
 * A client on a websocket. Frames that were built once for many sockets are written past `ws`'s own sender; that
 * is safe as long as `ws` writes each of its own frames (ping, pong, close) at once, which it does unless it
 * compresses.
 */
export class WebSocketConnection extends Connection implements Pausable {
  readonly format: Format = webSocketFrames
  readonly webSocket: WebSocket
  readonly #socket: Duplex
  /** Whether what it sends as binary stays binary. */
  readonly binary: boolean
  /** Whether it is told of its messages that were rejected. */
  readonly rejections: boolean
  /** How many pings have had no pong yet. */
  unanswered = 0
  paused = 0
  /** What it has sent; made with its first message. */
  intake: Intake<RawMessage | undefined> | undefined
  /** Why we have closed it: because the server ends, or for a reason of its own. */
  #closed: 'server ends' | 'fault' | undefined

  /**
   * @param accepted its listeners find the connection with `of`
   * @param joinOptions what its client asked for
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
    ;(webSocket as ConnectedWebSocket)[kConnection] = this
    webSocket.on('close', onClose)
  }

  /** The connection of a socket. */
  static of(webSocket: WebSocket): WebSocketConnection {
    return (webSocket as ConnectedWebSocket)[kConnection]
  }

  /**
   * Whether what comes from it still counts. When the server ends, all that a client has sent before it sees our
   * close does; after a fault of its own nothing does.
   */
  get listening(): boolean {
    return this.open || this.#closed === 'server ends'
  }

  /** Whether we have closed it for a reason of its own: what it has sent, and nobody has taken yet, is dropped. */
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
    if (this.webSocket.extensions === '') {
      this.#socket.write(joined)
    } else {
      for (const frame of frames) {
        const { data, binary } = messageIn(frame)
        this.webSocket.send(data, { binary })
      }
    }
  }

  drained(): Promise<void> {
    const socket = this.#socket
    if (!this.open || !socket.writableNeedDrain) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        socket.off('drain', done).off('close', done)
        resolve()
      }
      socket.on('drain', done).on('close', done)
    })
  }

  /**
   * Pings. A client that has answered neither of the last two pings is gone, and its socket is ended; one that we
   * have stopped to read cannot be heard.
   */
  ping(): void {
    if (this.webSocket.isPaused) this.unanswered = 0
    else if (this.unanswered === MAX_UNANSWERED) {
      this.terminate()
      return
    }
    this.unanswered++
    this.webSocket.ping()
  }

  pause(reason: number): void {
    // The client's answer to our close must be read.
    if (this.paused === 0 && this.#closed === undefined) this.webSocket.pause()
    this.paused |= reason
  }

  resume(reason: number): void {
    this.paused &= ~reason
    if (this.paused === 0) this.webSocket.resume()
  }

  override goAway(code: number, reason: string): void {
    const first = this.open
    this.close(code, reason)
    if (first) this.#closed = 'server ends'
  }

  close(code: number, reason: string): void {
    this.#closed = 'fault'
    this.webSocket.close(code, reason)
    // The client's answer must be read.
    this.webSocket.resume()
  }

  terminate(): void {
    this.webSocket.terminate()
  }
}

/** One for all sockets, of which there are many. */
function onClose(this: WebSocket, code: number, reason: Buffer): void {
  const connection = WebSocketConnection.of(this)
  const gone = () => connection.gone(code, reason.toString())
  // What it sent before its end comes before its end.
  if (connection.intake?.busy) connection.intake.finish().then(gone)
  else gone()
}
