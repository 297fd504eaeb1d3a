import type { Connection, Expiry, Pinged } from '../../clients/index.js'
import type { Pausable } from '../../flow/index.js'
import type { Core } from '../index.js'
import type { SdkPresence } from './subscriptions/presence.js'
import type { Recovery } from './subscriptions/recovery.js'
import type { Ends, Subscription } from './subscriptions/subscription.js'
import type { SdkFormat } from './wire/formats.js'
import type { Disconnect } from './wire/protocol.js'
import type { Method, Push, Results } from './wire/replies.js'

/** The connection of an SDK, on any transport. */
export interface SdkConnection extends Connection, Pausable, Pinged {
  readonly format: SdkFormat
}

/** The part of a session that command handlers use. */
export interface SessionReplies {
  /** Whether the client has disconnected, so that nothing is sent any more. */
  readonly ended: boolean
  /** Answers a command. The result is sent even if it is empty, because the SDK waits for it. */
  reply<M extends Method>(id: number, method: M, result: Results[M]): void
  /** Sends a push, which is not the answer to a command. */
  push(push: Push): void
  /**
   * Answers a command with an error, or closes the connection if the error is a DisconnectError.
   * @param id the id of the command; without it, the connection is closed
   */
  fail(error: unknown, id?: number): void
  /** Ends the connection with a reason. */
  close(disconnect: Disconnect): void
}

/** What all sessions share: the core, and the services of this protocol. */
export interface SdkServices {
  readonly core: Core
  readonly recovery: Recovery
  readonly presence: SdkPresence
  /** Ends subscriptions whose tokens expire. */
  readonly expiry: Expiry<Subscription>
  readonly ends: Ends
}
