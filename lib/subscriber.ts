import type { Socket } from 'node:net'
import type { WebSocket } from 'ws'
import { messageIn, textFrames } from './frame.js'
import type { Subscriber } from './hub.js'

/** Close codes of this project (RFC 6455, section 7.4.2: 3000 to 3999 are for frameworks). */
export const CLOSE = {
  GOING_AWAY: 1001,
  INVALID_DATA: 1007,
  TOO_BIG: 1009,
  NOT_PUBLISHED: 1011,
  JWT_EXPIRED: 3001,
  SLOW: 3008
} as const

export interface SubscriberLimits {
  /** How many bytes may wait for a client that does not read. */
  maxBufferedBytes: number
  /** Told of each client that is closed for that, with the bytes that wait for it. */
  onSlow: (bufferedBytes: number) => void
}

/**
 * One websocket's outgoing side. Frames that were built once for many sockets are written past `ws`'s own
 * sender; that is safe as long as `ws` writes each of its own frames (ping, pong, close) at once, which it does
 * unless it compresses.
 */
export class WebSocketSubscriber implements Subscriber {
  readonly format = textFrames
  readonly webSocket: WebSocket
  readonly #limits: SubscriberLimits
  /** False after a ping; its pong is to set it again. */
  alive = true

  /**
   * @param webSocket an open socket
   * @param limits one object for all sockets
   */
  constructor(webSocket: WebSocket, limits: SubscriberLimits) {
    this.webSocket = webSocket
    this.#limits = limits
  }

  deliver(frames: readonly Buffer[], joined: Buffer): void {
    const webSocket = this.webSocket
    if (webSocket.readyState !== webSocket.OPEN) return
    // A message of any size is accepted while nothing waits; a queue that grows is a client that does not read.
    const { bufferedAmount } = webSocket
    if (bufferedAmount > 0 && bufferedAmount + joined.length > this.#limits.maxBufferedBytes) {
      this.#limits.onSlow(bufferedAmount)
      this.close(CLOSE.SLOW, 'slow')
      return
    }
    if (webSocket.extensions === '') {
      ;(webSocket as unknown as { _socket: Socket })._socket.write(joined)
    } else {
      for (const frame of frames) webSocket.send(messageIn(frame), { binary: false })
    }
  }

  /** Pings; a client that has not answered the ping before is gone, and its socket is ended. */
  ping(): void {
    if (!this.alive && !this.webSocket.isPaused) {
      this.webSocket.terminate()
      return
    }
    this.alive = false
    this.webSocket.ping()
  }

  /** Closes with a code and a reason (RFC 6455, section 5.5.1: at most 123 bytes). */
  close(code: number, reason: string): void {
    this.webSocket.close(code, reason)
  }

  /** Ends the connection without a closing handshake. */
  terminate(): void {
    this.webSocket.terminate()
  }
}
