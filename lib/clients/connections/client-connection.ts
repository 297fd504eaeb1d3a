import type { Subscriber } from '../../channels/index.js'
import type { Receiver } from '../../flow/index.js'
import type { CloseReason } from './close-reason.js'

/**
 * The connection of a client, independent of its protocol. `Connection` implements what all protocols share: flow
 * control, holding messages while the client catches up, counting.
 */
export interface ClientConnection extends Subscriber, Receiver {
  /** Whether messages can be sent; false once the connection is closing. */
  readonly open: boolean
  /** Resolves when the write buffer has drained, or the connection has ended. */
  drained(): Promise<void>
  /** Sends a ping, which also keeps proxies from closing the connection. */
  ping(): void
  /**
   * Closes with a code and a reason, as the protocol expresses them. For a websocket these are those of RFC 6455
   * (section 5.5.1: the reason has at most 123 bytes). The code is one of CLOSE, or one of the protocol.
   * @param cause why, for metrics, events and the log
   */
  close(code: number, reason: string, cause: CloseReason): void
  /** Closes because the server shuts down. What the client sends until it sees the close is still processed. */
  goAway(code: number, reason: string, cause: CloseReason): void
  /** Closes because the client's token has expired (3001). */
  expire(): void
  /** Closes because the client's token was revoked (3500). */
  revoke(): void
  /** Closes on behalf of an operator or the application, with a code that applications may send. */
  disconnect(code: number, reason: string): void
  /** Ends the connection at once, without a close handshake. */
  terminate(): void
}
