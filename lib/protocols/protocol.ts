import type { Authorizer, Revocations, Token } from '../auth/index.js'
import type { Hub, ListenedChannels } from '../channels/index.js'
import type { Clients } from '../clients/index.js'
import type { ResolvedOptions } from '../config/index.js'
import type { ChannelReads, MessageStore, RetentionRules } from '../durable/index.js'
import type { Log } from '../log.js'
import type { ChannelSync, JoinLeavePush, Presence } from '../presence/index.js'
import type { Publisher } from '../publishing/index.js'

/** What a protocol needs of the rest of the server. `buildParts` (lib/parts.ts) makes one object for all protocols. */
export interface Core {
  /**
   * The life of a client: it is admitted (with `join` if it names its channels when it connects, with `enter` if it joins and
   * leaves channels later), publishes, is slowed down (`pace`, `publish`), gets a new token, and leaves.
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
    | 'refused'
    | 'publish'
    | 'idOf'
    | 'memberOf'
  >
  /** Makes notifications of the messages that clients send. */
  readonly publisher: Pick<Publisher, 'notification' | 'binaryNotification'>
  /** Joins and leaves channels for clients whose channels change. */
  readonly hub: Pick<Hub, 'join' | 'leave'>
  /** Listens to a raw channel while it has readers. */
  readonly listened: ListenedChannels
  /** Verifies a token that comes after the handshake. @throws InvalidToken, TokenExpired, TokenRevoked (401), KeysUnavailable (503) */
  readonly verifyToken: (token: string) => Token | Promise<Token>
  /** The revoked tokens, for tokens that a client has sent some time ago. */
  readonly revocations: Pick<Revocations, 'includes'>
  /** Authorizes a channel that is named after the handshake. */
  readonly authorizer: Pick<Authorizer, 'authorize'>
  /** Reads what clients that resume have missed. With `clients.join`, a protocol does not need it. */
  readonly reads: Pick<ChannelReads, 'state' | 'resume' | 'read'>
  /** Lists history. */
  readonly history: Pick<MessageStore, 'list' | 'catchUp'>
  readonly durable: Pick<RetentionRules, 'ageOf' | 'epoch'>
  /** Whose members channels are. With `clients.join`, a protocol does not need it. */
  readonly presence: Pick<Presence, 'has' | 'join' | 'leave'>
  /** The members of channels on all nodes. */
  readonly members: Pick<ChannelSync, 'summary'>
  readonly joinLeavePush: Pick<JoinLeavePush, 'add' | 'remove'>
  readonly limits: Pick<
    ResolvedOptions,
    'maxMessageBytes' | 'maxBufferedBytes' | 'maxHistoryBytes' | 'maxChannelsPerConnection'
  >
  readonly log: Log
}

/**
 * A protocol that clients speak, as the rest of the server sees it. What the rest needs of a single client is
 * `ClientConnection` (lib/clients/connections/client-connection.ts): a `Format`, which encodes a message once for all of its readers,
 * and ways to deliver messages and to close with a reason. Most protocols extend `WebSocketConnection` or
 * `StreamConnection` (lib/transports) with their format.
 *
 * To add a protocol (for example Phoenix), you need:
 * - a folder below lib/protocols with a class that extends this one. It makes a connection for each client, and passes it to
 *   `core.clients`.
 * - a file in routes/ that is registered in index.ts. It takes the requests, calls `gateway.admit`, and passes the accepted
 *   websocket or response to that class (`gateway.protocols`).
 * - a line in `protocolsOf` (lib/parts.ts).
 */
export abstract class Protocol {
  protected readonly core: Core

  constructor(core: Core) {
    this.core = core
  }

  /** Is called when the listener is connected again. Messages of channels that are not durable may be missing. */
  listenerReconnected(): void {}

  /** Is called when tokens were revoked. `Clients` closes the connections with these tokens. */
  tokensRevoked(): void {}

  /**
   * Is called when the server shuts down. Closes clients that have no connection yet, and stops timers. `Clients` closes the
   * connections.
   */
  close(): void {}
}
