import type { Connection, Expiry } from '../../clients/index.js'
import type { Pausable } from '../../flow/index.js'
import type { Core } from '../index.js'
import type { SdkPresence } from './subscriptions/presence.js'
import type { Recovery } from './subscriptions/recovery.js'
import type { Ends, Subscription } from './subscriptions/subscription.js'
import type { Disconnect, Result } from './wire/protocol.js'
import type { SdkFormat } from './wire/publication.js'

/** A connection of the SDK, whatever its transport. */
export interface SdkConnection extends Connection, Pausable {
  readonly format: SdkFormat
  /** How many pings have had no answer yet. */
  unanswered: number
}

/** A session, as what its client asks for sees it. */
export interface SessionReplies {
  /** True once the client has gone: nothing is sent any more. */
  readonly ended: boolean
  /** Answers a command. A result is sent even where it is empty: without it the SDK stops. */
  reply(id: number, method: string, result: Result): void
  /** Tells what was not asked for. */
  push(push: object): void
  /**
   * Answers a command with an error, or ends the connection where the error says so.
   * @param id the command's; without one, the connection ends
   */
  fail(error: unknown, id?: number): void
  /** Ends the connection with a reason. */
  close(disconnect: Disconnect): void
}

/** What sessions are given: the core, and what is this protocol's own. */
export interface SdkServices {
  readonly core: Core
  readonly recovery: Recovery
  readonly presence: SdkPresence
  /** Ends subscriptions whose tokens end. */
  readonly expiry: Expiry<Subscription>
  readonly ends: Ends
}
