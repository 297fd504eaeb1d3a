import createError from '@fastify/error'
import { asError, causeOf, codeOf, messageOf, severityOf } from './thrown.js'

export { asError, codeOf, messageOf, severityOf, statusCodeOf } from './thrown.js'

/**
 * Every error of this project: code, text, HTTP status.
 * The texts of the token errors begin as those of postgres-websockets do, because clients may match on them. No text
 * may contain a token, a secret or a connection string.
 */
export const errors = {
  /** The token is missing, is not a JWT, is not signed with one of the configured keys, or is not valid yet. */
  InvalidToken: createError<[string]>('FST_PGWS_INVALID_TOKEN', 'Error: %s', 401),
  KeysUnavailable: createError(
    'FST_PGWS_KEYS_UNAVAILABLE',
    'The keys that verify tokens could not be fetched yet: try again later',
    503
  ),
  TokenExpired: createError('FST_PGWS_TOKEN_EXPIRED', 'Token expired', 401),
  TokenRevoked: createError('FST_PGWS_TOKEN_REVOKED', 'Token revoked', 401),
  MissingMode: createError<[string]>(
    'FST_PGWS_MISSING_MODE',
    'Missing mode: the token needs a "%s" claim of "r", "w" or "rw"',
    403
  ),
  UnknownMode: createError<[string]>(
    'FST_PGWS_UNKNOWN_MODE',
    'Unknown mode: the "%s" claim must be "r", "w" or "rw"',
    403
  ),
  NoAllowedChannels: createError<[string]>('FST_PGWS_NO_ALLOWED_CHANNELS', 'No allowed channels: %s', 403),
  MalformedClaims: createError<[string]>('FST_PGWS_MALFORMED_CLAIMS', 'Malformed claims: %s', 403),
  ReadNotAllowed: createError(
    'FST_PGWS_READ_NOT_ALLOWED',
    'The token\'s "mode" does not allow reading: it must be "r" or "rw"',
    403
  ),
  NoAudience: createError(
    'FST_PGWS_NO_AUDIENCE',
    'No audience: the request belongs to no audience; list the audiences of a token in its claim "audiences"',
    403
  ),
  WriteNotAllowed: createError(
    'FST_PGWS_WRITE_NOT_ALLOWED',
    'The token\'s "mode" does not allow writing: it must be "w" or "rw"',
    403
  ),
  AdminOnly: createError<[string]>(
    'FST_PGWS_ADMIN_ONLY',
    'Only administrators may do this: the token needs the claim %s',
    403
  ),
  BadAddress: createError<[string]>('FST_PGWS_BAD_ADDRESS', 'Malformed address: %s', 400),
  BadMessage: createError<[string, { cause: Error }?]>('FST_PGWS_BAD_MESSAGE', 'Malformed message: %s', 400),
  UpgradeRequired: createError(
    'FST_PGWS_UPGRADE_REQUIRED',
    'This address accepts websockets only: send a complete websocket handshake (RFC 6455, section 4.1)',
    426
  ),
  NotFound: createError(
    'FST_PGWS_NOT_FOUND',
    'This address does not accept plain HTTP requests: connect with a websocket',
    404
  ),
  PayloadTooLarge: createError<[number, number]>(
    'FST_PGWS_PAYLOAD_TOO_LARGE',
    'The message takes %d bytes with its envelope; a PostgreSQL notification carries at most %d',
    413
  ),
  RequestTooLarge: createError<[string]>(
    'FST_PGWS_REQUEST_TOO_LARGE',
    'One request may publish at most %s: send several requests',
    413
  ),
  /** The text is that of the function's own error, and `sqlstate` its code (errcodes-appendix.html). */
  Rejected: createError<[string]>('FST_PGWS_REJECTED', '%s', 422),
  NotAuthorized: createError<[string]>(
    'FST_PGWS_NOT_AUTHORIZED',
    'The database does not allow this on the channel "%s"',
    403
  ),
  RoleNotAllowed: createError(
    'FST_PGWS_ROLE_NOT_ALLOWED',
    'The token names no database role that the server may switch to: check the claim that "roleClaim" (PGWS_ROLE_CLAIM) names, and grant the role to the server\'s role',
    403
  ),
  /**
   * Nothing was published. The causes of this error and of the next two are for the log: clients must not learn where
   * the database is.
   */
  DatabaseUnavailable: createError<[string, { cause: Error }?]>(
    'FST_PGWS_DATABASE_UNAVAILABLE',
    'The database is unavailable: %s',
    503
  ),
  /** The cause is PostgreSQL's own error. */
  NotAccepted: createError<[string, { cause: Error }?]>(
    'FST_PGWS_NOT_ACCEPTED',
    'The database refused the request: %s',
    503
  ),
  OutcomeUnknown: createError<[string, { cause: Error }?]>(
    'FST_PGWS_OUTCOME_UNKNOWN',
    'It is not known whether the database carried out the request: %s',
    503
  ),
  NodesUnavailable: createError<[string]>(
    'FST_PGWS_NODES_UNAVAILABLE',
    'The other nodes are unavailable: %s',
    503
  ),
  NoSuchSession: createError('FST_PGWS_NO_SUCH_SESSION', 'No node has this session: connect again', 404),
  MethodNotAllowed: createError<[string]>(
    'FST_PGWS_METHOD_NOT_ALLOWED',
    'This address accepts %s requests only',
    405
  ),
  NoSuchRevocation: createError(
    'FST_PGWS_NO_SUCH_REVOCATION',
    'There is no revocation with this id: it may have expired',
    404
  ),
  NoSuchConnection: createError('FST_PGWS_NO_SUCH_CONNECTION', 'No node has a connection with this id', 404),
  BadQuery: createError<[string]>('FST_PGWS_BAD_QUERY', 'Malformed request: %s', 400),
  CannotListen: createError<[string]>(
    'FST_PGWS_CANNOT_LISTEN',
    'LISTEN does not work on this connection, because %s in the option "listenerUri" (PGWS_LISTENER_URI)',
    500
  ),
  /** The cause says what to grant to whom. */
  MissingGrant: createError<[{ cause: Error }]>(
    'FST_PGWS_MISSING_GRANT',
    'The server\'s role may not use the schema "pgws" of the database: the log says what to grant',
    503
  ),
  ChannelRefused: createError<[string, string]>(
    'FST_PGWS_CHANNEL_REFUSED',
    'The database cannot listen to the channel "%s": %s',
    400
  ),
  SchemaTooNew: createError<[number, number]>(
    'FST_PGWS_SCHEMA_TOO_NEW',
    'The schema "pgws" of the database has version %d, but this server supports versions up to %d: upgrade fastify-pg-websockets',
    500
  ),
  SchemaTooOld: createError<[number, number]>(
    'FST_PGWS_SCHEMA_TOO_OLD',
    'The schema "pgws" of the database has version %d, but this server needs version %d: run "npx fastify-pg-websockets migrate", or set the option "migrate" (PGWS_MIGRATE=true)',
    503
  ),
  FunctionMissing: createError<[string, string, string]>(
    'FST_PGWS_FUNCTION_MISSING',
    'The database has no function %s that returns %s: create it, or correct the option "%s"',
    500
  ),
  NotInstalled: createError(
    'FST_PGWS_NOT_INSTALLED',
    'The schema "pgws" is not installed in this database: run "npx fastify-pg-websockets migrate", or set the option "migrate" (PGWS_MIGRATE=true)',
    501
  ),
  UnknownPosition: createError(
    'FST_PGWS_UNKNOWN_POSITION',
    'The id is not one of the current epoch of this database: replace your data with what "since=earliest" returns',
    409
  ),
  NoPresence: createError(
    'FST_PGWS_NO_PRESENCE',
    'The channel does not track presence: no pattern of the option "presenceChannels" (PGWS_PRESENCE_CHANNELS) matches it',
    404
  ),
  OriginNotAllowed: createError(
    'FST_PGWS_ORIGIN_NOT_ALLOWED',
    'Pages of this origin may not connect: add the origin to the option "allowedOrigins" (PGWS_ALLOWED_ORIGINS)',
    403
  ),
  TooManyConnections: createError(
    'FST_PGWS_TOO_MANY_CONNECTIONS',
    'The server has reached its limit of connections: try again later',
    503
  ),
  TooManyConnectionsFromAddress: createError(
    'FST_PGWS_TOO_MANY_CONNECTIONS_FROM_ADDRESS',
    'Your IP address has reached its limit of connections: close some, or try again later',
    429
  ),
  TooManyChannels: createError<[number]>(
    'FST_PGWS_TOO_MANY_CHANNELS',
    'A connection may join at most %d channels: name fewer in the address or the token',
    403
  ),
  TooManyPublishChannels: createError<[number, number]>(
    'FST_PGWS_TOO_MANY_CHANNELS',
    'The request names %d channels; it may name at most %d: send several requests',
    400
  ),
  ShuttingDown: createError('FST_PGWS_SHUTTING_DOWN', 'The server is shutting down: connect again', 503),
  ListenerUnavailable: createError<[string, { cause: Error }?]>(
    'FST_PGWS_LISTENER_UNAVAILABLE',
    'Could not listen to the database: %s',
    503
  ),
  /** This error and the next two go to the `errorHandler` of the Socket.IO adapter. */
  SocketIoGap: createError<[number]>(
    'FST_PGWS_SOCKET_IO_GAP',
    'The Socket.IO adapter was disconnected from the database for %d ms: packets that other servers sent meanwhile may be lost'
  ),
  SocketIoPacketLost: createError<[string]>(
    'FST_PGWS_SOCKET_IO_PACKET_LOST',
    'A packet from another Socket.IO server was lost: %s'
  ),
  SocketIoNotPublished: createError<[string]>(
    'FST_PGWS_SOCKET_IO_NOT_PUBLISHED',
    'A packet was not sent to the other Socket.IO servers: %s'
  ),
  InvalidOption: createError<[string, string]>(
    'FST_PGWS_INVALID_OPTION',
    'fastify-pg-websockets: option "%s" %s',
    500,
    TypeError
  )
}

/** An error's message with those of its causes. For the log only: they may say where the database is. */
export function fullMessageOf(error: unknown): string {
  const cause = causeOf(error)
  const message = messageOf(error)
  if (cause === undefined) return message
  const inner = fullMessageOf(cause)
  return message.includes(inner) ? message : `${message}: ${inner}`
}

/** The full message without the name of this package, with which the message of an invalid option begins. */
export function unnamedMessageOf(error: unknown): string {
  return fullMessageOf(error).replace(/^fastify-pg-websockets: /, '')
}

/**
 * SQLSTATEs (errcodes-appendix.html) that retrying does not help: a wrong password, no entry in pg_hba.conf, a role or
 * database that does not exist, a missing permission.
 */
const REFUSED = /^(?:28|3D000|42501)/

/**
 * Whether the first connection, or the first statement on it, failed for a reason that retrying does not help. Later the
 * same error may be temporary: a password is being changed, or a database restored.
 */
export function isRefusal(error: unknown): boolean {
  const code = codeOf(error)
  const cause = causeOf(error)
  if (error instanceof errors.MissingGrant || error instanceof errors.SchemaTooNew) return true
  if (severityOf(error) !== undefined && code !== undefined && REFUSED.test(code)) return true
  return cause !== undefined && isRefusal(cause)
}

/** The SQLSTATE (errcodes-appendix.html) of a NotAccepted; empty for any other error. */
export function sqlstateOf(error: unknown): string {
  return error instanceof errors.NotAccepted ? (codeOf(error.cause) ?? '') : ''
}

/** Classes of SQLSTATEs that a retry may help: conflicts, insufficient resources, locks, operator intervention. */
const TEMPORARY = /^(?:40|53|55|57)/

/** Whether retrying is of no use. */
export function isPermanent(error: unknown): boolean {
  const permanent = [errors.SchemaTooNew, errors.NotInstalled, errors.MissingGrant]
  if (permanent.some((kind) => error instanceof kind)) return true
  return error instanceof errors.NotAccepted && !TEMPORARY.test(sqlstateOf(error))
}

/**
 * SQLSTATEs (errcodes-appendix.html) for a character that the database's encoding lacks: 22P05 where PostgreSQL converts
 * between encodings, 22021 where it does not.
 */
const UNTRANSLATABLE = /^(?:22P05|22021)$/

/** Whether the database refused a statement because of a character that its encoding lacks. */
export function isUntranslatable(error: unknown): boolean {
  return UNTRANSLATABLE.test(sqlstateOf(error))
}

/** Classes of SQLSTATEs that depend on the values that a statement reads: data exceptions, program limits, corrupted rows. */
const ABOUT_VALUES = /^(?:22|54|XX)/

/** Whether the database refused a statement that it may accept for other values. */
export function isAboutValues(error: unknown): boolean {
  return ABOUT_VALUES.test(sqlstateOf(error))
}

/** @returns BadMessage for a character that the database cannot store; any other error unchanged */
export function asBadMessage(error: unknown): unknown {
  if (!isUntranslatable(error)) return error
  const cause = asError(causeOf(error))
  return new errors.BadMessage(`the database cannot store it: ${cause.message}`, { cause })
}
