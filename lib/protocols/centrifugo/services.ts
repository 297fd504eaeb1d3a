import type { Authorizer, Caller, Claims, Token } from '../../auth/index.js'
import type { Hub, RawChannels } from '../../channels/index.js'
import type { Connection, Pace, Pausable } from '../../clients/index.js'
import type { RetentionRules } from '../../durable/index.js'
import type { Log } from '../../log.js'
import type { SdkPresence } from './presence.js'
import type { Disconnect, Result } from './protocol.js'
import type { SdkFormat } from './publication.js'
import type { Recovery } from './recovery.js'
import type { Subscription } from './subscription.js'

/** A connection of the SDK, whatever its transport. */
export interface SdkConnection extends Connection, Pausable {
  readonly format: SdkFormat
  /** How many pings have had no answer yet. */
  unanswered: number
}

/** What a session's connection is made of. `channels` grows and shrinks with its subscriptions. */
export interface SessionAccess {
  channels: string[]
  read: boolean
  write: boolean
  expiresAt: number | undefined
  subject: string | undefined
  claims: Claims
  caller: Caller | undefined
}

/** Whose subscriptions may end before their client goes. */
export interface Expiring {
  /** A subscription's token has ended. */
  expire(subscription: Subscription): void
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

/** What sessions are given. */
export interface SdkServices {
  hub: Hub
  /** How fast each client may send commands. */
  pace: Pace
  recovery: Recovery
  presence: SdkPresence
  version: string
  /** How many channels a client may be in. */
  maxChannels: number
  maxBufferedBytes: number
  /** @throws InvalidToken, TokenExpired, MalformedClaims, KeysUnavailable */
  verifyToken: (token: string) => Token | Promise<Token>
  authorizer: Pick<Authorizer, 'authorize'>
  rawChannels: Pick<RawChannels, 'join'>
  durable: Pick<RetentionRules, 'ageOf'>
  /** The id that others know a connection by. */
  idOf: (connection: Connection) => string
  /** Counts a connection that has just been made. */
  enter: (connection: Connection, access: SessionAccess) => void
  /** A connection's token has been replaced; it ends at another time, in milliseconds since the epoch. */
  renew: (connection: Connection, access: SessionAccess, expiresAt: number | undefined) => void
  /** Publishes what a client sends; resolves when the database has accepted it. */
  publish: (
    connection: SdkConnection,
    channel: string,
    data: unknown,
    caller: Caller | undefined
  ) => Promise<void>
  /** Sends a line to a client. */
  deliver: (connection: SdkConnection, json: string) => void
  /** A client has answered a ping. */
  onPong: (connection: SdkConnection | undefined) => void
  /** Ends subscriptions whose tokens end. */
  expiry: {
    add: (owner: Expiring, subscription: Subscription) => void
    delete: (subscription: Subscription) => void
  }
  log: Log
}
