import type { Authorizer, Token } from '../auth/index.js'
import type { Hub, RawChannels } from '../channels/index.js'
import type { Clients } from '../clients/index.js'
import type { ResolvedOptions } from '../config/index.js'
import type { MessageStore, RetentionRules } from '../durable/index.js'
import type { Log } from '../log.js'
import type { JoinLeavePush, Presence } from '../presence/index.js'
import type { Publisher } from '../publishing/index.js'

/** What a protocol needs of the rest of the server; `buildParts` (lib/parts.ts) makes it once for all of them. */
export interface Core {
  /**
   * Where a client comes in (`join` for one that stays in the channels it names at once; `enter` for one that joins
   * and leaves channels later), publishes, is held up (`pace`, `publish`), gets a new token, and goes.
   */
  readonly clients: Pick<
    Clients,
    | 'closing'
    | 'optionsFor'
    | 'join'
    | 'enter'
    | 'renew'
    | 'leave'
    | 'pace'
    | 'received'
    | 'ignored'
    | 'publish'
    | 'idOf'
    | 'memberOf'
  >
  /** Makes what is published of what a client sends. */
  readonly publisher: Pick<Publisher, 'notification' | 'binaryNotification'>
  /** Where a client of changing channels joins and leaves each of them. */
  readonly hub: Pick<Hub, 'join' | 'leave'>
  /** LISTENs to a raw channel while somebody reads it. */
  readonly rawChannels: Pick<RawChannels, 'join'>
  /** Checks a token that comes later than the handshake. @throws InvalidToken (401), KeysUnavailable (503) */
  readonly verifyToken: (token: string) => Token | Promise<Token>
  /** Asks for a channel that is named later than the handshake. */
  readonly authorizer: Pick<Authorizer, 'authorize'>
  /** History, for a client that says where it was. `clients.join` does all of it by itself. */
  readonly history: Pick<MessageStore, 'state' | 'read' | 'list' | 'catchUp'>
  readonly durable: Pick<RetentionRules, 'ageOf' | 'epoch'>
  /** Who is in a channel. `clients.join` does all of it by itself. */
  readonly presence: Pick<Presence, 'has' | 'join' | 'leave' | 'isLarge' | 'members' | 'summary'>
  readonly joinLeavePush: Pick<JoinLeavePush, 'add' | 'remove'>
  readonly limits: Pick<
    ResolvedOptions,
    'maxMessageBytes' | 'maxBufferedBytes' | 'maxHistoryBytes' | 'maxChannelsPerConnection'
  >
  readonly log: Log
}

/**
 * A language that clients speak, and what the rest needs of it as a whole. What it needs of a single client is
 * `ClientConnection` (lib/clients/client-connection.ts): a `Format`, which encodes a message once for all of its
 * readers, and ways to deliver and to close with a reason. Most protocols extend `WebSocketConnection` or
 * `StreamConnection` (lib/transports), and give it their format.
 *
 * To add a language (Phoenix, say):
 * - a folder here, with a class that extends this one, makes a connection for each client and gives it to
 *   `core.clients`;
 * - a file in routes/ that takes its requests, calls `gateway.admit` and hands the accepted socket, or the response, to
 *   that class (`gateway.protocols`), and is registered in index.ts;
 * - a line in `protocolsOf` (lib/parts.ts).
 */
export abstract class Protocol {
  protected readonly core: Core

  constructor(core: Core) {
    this.core = core
  }

  /** The listener is back: messages of channels that nobody stores may be missing. */
  listenerReconnected(): void {}

  /**
   * The server ends: to close clients that are no connections yet, and to stop timers. Those that are connections are
   * closed by `Clients`.
   */
  close(): void {}
}
