import type { Subscriber } from '../channels/index.js'
import type { Receiver } from '../flow/index.js'

/**
 * What the server needs of a client, whatever language it speaks. `Connection` implements what is the same for all:
 * flow control, holding what comes while the client catches up, counting.
 */
export interface ClientConnection extends Subscriber, Receiver {
  /** False once it is being closed: nothing can be sent any more. */
  readonly open: boolean
  /** Resolves when no more waits for the client than should, or it is gone. */
  drained(): Promise<void>
  /** Shows the client, and whatever is in between, that we are there. */
  ping(): void
  /**
   * Closes with a code and a reason, in the words of its language. For a websocket these are RFC 6455's (section
   * 5.5.1: the reason has at most 123 bytes); the code is one of CLOSE, or one that the language knows.
   */
  close(code: number, reason: string): void
  /** Closes because the server ends: what the client has sent before it sees that still counts. */
  goAway(code: number, reason: string): void
  /** Closes because the client's token has expired (3001). */
  expire(): void
  /** Closes because an operator or the application wants it so, with a code that applications may send. */
  disconnect(code: number, reason: string): void
  /** Ends the connection without a word. */
  terminate(): void
}
