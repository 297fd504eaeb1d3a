import type { Caller, Revocations, Token } from './auth/index.js'
import type { ResolvedOptions } from './config/index.js'
import type { SchemaState } from './durable/index.js'
import type { Listener } from './listener/index.js'
import type { Log } from './log.js'
import type { Query, Rows } from './postgres/index.js'

type OptionsUsed =
  | 'listenChannel'
  | 'bus'
  | 'busCredentials'
  | 'busCa'
  | 'busPrefix'
  | 'notifySql'
  | 'checkListenerInterval'
  | 'metaChannel'
  | 'rawChannels'
  | 'presenceChannels'
  | 'endpoints'
  | 'envelopeClaims'
  | 'maxBufferedBytes'
  | 'maxTotalBufferedBytes'
  | 'slowTimeout'
  | 'maxHistoryBytes'
  | 'maxMessageBytes'
  | 'maxConnections'
  | 'maxConnectionsPerIp'
  | 'messageRate'
  | 'nodeTimeout'
  | 'poolSize'
  | 'publishTimeout'
  | 'shutdownTimeout'
  | 'onMessageFunction'
  | 'authorizeFunction'
  | 'authorizeTtl'
  | 'onConnectFunction'
  | 'onDisconnectFunction'
  | 'roleClaim'
  | 'maxChannelsPerConnection'

/** What a server is built with. */
export interface GatewayOptions extends Pick<ResolvedOptions, OptionsUsed> {
  /**
   * Runs one statement in the publishing pool. Rejects with DatabaseUnavailable if it was not committed, NotAccepted if
   * the database refused it, and OutcomeUnknown if it may have been committed.
   */
  query: Query
  /** The same for the sequencer, whose statements may take longer. */
  sequencerQuery: Query
  /**
   * Runs one statement in a transaction of its own, as a client if a caller is given. Rejects like `query`, or with
   * RoleNotAllowed.
   */
  call: <Row>(text: string, values: unknown[], caller?: Caller) => Promise<Rows<Row>>
  /** Verifies a token's signature, audience and issuer; throws InvalidToken (401), KeysUnavailable (503). */
  verifyToken: (token: string) => Token | Promise<Token>
  /** The revoked tokens, which `verifyToken` refuses. */
  revocations: Revocations
  /** Is called when the compatibility of this server and the schema `pgws` changes. */
  onSchema: (state: SchemaState) => void
  listener: Listener
  log: Log
}
