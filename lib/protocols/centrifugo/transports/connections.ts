import type { Access } from '../../../auth/index.js'
import {
  CLOSE,
  type CloseReason,
  type ConnectionOptions,
  mayPing,
  type TransportName
} from '../../../clients/index.js'
import { type AcceptedSocket, WebSocketConnection } from '../../../transports/index.js'
import type { Encoding, SdkFormat } from '../wire/formats.js'
import { DISCONNECT, type Disconnect } from '../wire/protocol.js'

/** Translates the server's close codes into those of this protocol. */
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

/** Why a session is closed with a code of this protocol. */
export function causeOf({ code, reason }: Disconnect): CloseReason {
  // The SDKs know one code for tokens that they must not use again.
  if (reason.startsWith(DISCONNECT.TOKEN_REVOKED.reason)) return 'token-revoked'
  return CAUSES.get(code) ?? 'server-error'
}

const CAUSES: ReadonlyMap<number, CloseReason> = new Map([
  [DISCONNECT.SHUTDOWN.code, 'shutdown'],
  [DISCONNECT.SERVER_ERROR.code, 'server-error'],
  [DISCONNECT.EXPIRED.code, 'token-expired'],
  [DISCONNECT.INSUFFICIENT_STATE.code, 'insufficient-state'],
  [DISCONNECT.NO_PONG.code, 'no-pong'],
  [DISCONNECT.TOO_MANY_REQUESTS.code, 'too-many-requests'],
  [DISCONNECT.INVALID_TOKEN.code, 'invalid-token'],
  [DISCONNECT.BAD_REQUEST.code, 'protocol'],
  [DISCONNECT.STALE.code, 'protocol'],
  [DISCONNECT.FORCED.code, 'disconnected'],
  [DISCONNECT.INAPPROPRIATE_PROTOCOL.code, 'protocol']
])

/** The close code for an operator's request. The default code, 3000, would make the SDK reconnect at once. */
export function forcedDisconnect(code: number, reason: string): Disconnect {
  const { FORCED } = DISCONNECT
  return { code: code === CLOSE.DISCONNECTED ? FORCED.code : code, reason: reason || FORCED.reason }
}

/** The connection of an SDK on a websocket. */
export class SdkWebSocketConnection extends WebSocketConnection {
  override readonly format: SdkFormat

  /** @param accepted its listeners find the connection with `WebSocketConnection.of` */
  constructor(accepted: AcceptedSocket, format: SdkFormat, access: Access, options: ConnectionOptions) {
    super(accepted, access, options)
    this.format = format
  }

  override get transport(): TransportName {
    return this.format.transport
  }

  override get protocol(): Encoding {
    return this.format.encoding
  }

  override ping(): void {
    if (!mayPing(this, this.webSocket.isPaused || this.reading)) {
      const { code, reason } = DISCONNECT.NO_PONG
      this.close(code, reason, 'no-pong')
      return
    }
    const { ping } = this.format
    if (this.open) this.send([{ bytes: ping, position: undefined }], ping)
  }

  protected override sendClose(code: number, reason: string): void {
    const disconnect = disconnectFor(code, reason)
    super.sendClose(disconnect.code, disconnect.reason)
  }

  /** Each subscription continues with the stored messages of its own channel. */
  protected override fallBehind(): boolean {
    return false
  }

  override disconnect(code: number, reason: string): void {
    const disconnect = forcedDisconnect(code, reason)
    super.disconnect(disconnect.code, disconnect.reason)
  }
}
