import type { WebSocket } from 'ws'
import type { Access } from '../../auth/index.js'
import { CLOSE, type ConnectionOptions } from '../../clients/index.js'
import { textFrame, WebSocketConnection } from '../../transports/index.js'
import { DISCONNECT, type Disconnect } from './protocol.js'
import { sdkWebSocketFrames } from './publication.js'

/** A ping is an empty object, and so is its answer. */
const PING = textFrame('{}')

/** How many pings may go without an answer. */
export const MAX_UNANSWERED = 2

/** The server's reasons to close, in this protocol's codes. */
export function disconnectFor(code: number, reason: string): Disconnect {
  switch (code) {
    case CLOSE.GOING_AWAY:
    case CLOSE.SERVICE_RESTART:
      return DISCONNECT.SHUTDOWN
    case CLOSE.JWT_EXPIRED:
      return DISCONNECT.EXPIRED
    case CLOSE.NOT_PUBLISHED:
      return DISCONNECT.SERVER_ERROR
    default:
      return { code, reason }
  }
}

/** A client of the SDK on a websocket. */
export class SdkWebSocketConnection extends WebSocketConnection {
  override readonly format = sdkWebSocketFrames

  /** @param webSocket an open socket; its listeners find the connection with `WebSocketConnection.of` */
  constructor(webSocket: WebSocket, access: Access, options: ConnectionOptions) {
    super(webSocket, access, options)
  }

  override ping(): void {
    if (this.webSocket.isPaused) this.unanswered = 0
    else if (this.unanswered === MAX_UNANSWERED) {
      const { code, reason } = DISCONNECT.NO_PONG
      this.close(code, reason)
      return
    }
    this.unanswered++
    if (this.open) this.send([{ bytes: PING, position: undefined }], PING)
  }

  override close(code: number, reason: string): void {
    const disconnect = disconnectFor(code, reason)
    super.close(disconnect.code, disconnect.reason)
  }

  /** 3000, which is what an operator's word means without a code, would have the SDK come back at once. */
  override disconnect(code: number, reason: string): void {
    this.close(
      code === CLOSE.DISCONNECTED ? DISCONNECT.FORCED.code : code,
      reason || DISCONNECT.FORCED.reason
    )
  }
}
