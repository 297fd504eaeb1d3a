import createError from '@fastify/error'

/**
 * Every error that this project answers or throws, in one table: code, text, HTTP status.
 * The texts of the token errors begin as those of postgres-websockets do, so that clients which match on
 * them keep working. None of them may hold a token, a secret or a connection string.
 */
export const errors = {
  /** 401: no token, no JWT, not signed by one of our keys, or not valid yet. */
  InvalidToken: createError<[string]>('FST_PGWS_INVALID_TOKEN', 'Error: %s', 401),
  KeysUnavailable: createError(
    'FST_PGWS_KEYS_UNAVAILABLE',
    'The keys that verify tokens could not be fetched yet: try again later',
    503
  ),
  TokenExpired: createError('FST_PGWS_TOKEN_EXPIRED', 'Token expired', 401),
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
    'No audience: the request belongs to no audience; a token lists its audiences in the claim "audiences"',
    403
  ),
  WriteNotAllowed: createError(
    'FST_PGWS_WRITE_NOT_ALLOWED',
    'The token\'s "mode" does not allow writing: it must be "w" or "rw"',
    403
  ),
  AdminOnly: createError<[string]>('FST_PGWS_ADMIN_ONLY', 'The token needs the claim %s', 403),
  BadAddress: createError<[string]>('FST_PGWS_BAD_ADDRESS', 'Malformed address: %s', 400),
  BadMessage: createError<[string, { cause: Error }?]>('FST_PGWS_BAD_MESSAGE', 'Malformed message: %s', 400),
  UpgradeRequired: createError(
    'FST_PGWS_UPGRADE_REQUIRED',
    'This address speaks websocket: send a complete websocket handshake (RFC 6455, section 4.1)',
    426
  ),
  NotFound: createError(
    'FST_PGWS_NOT_FOUND',
    'This address has no HTTP response: it accepts websocket connections',
    404
  ),
  PayloadTooLarge: createError<[number, number]>(
    'FST_PGWS_PAYLOAD_TOO_LARGE',
    'The message takes %d bytes with its envelope; a PostgreSQL notification carries at most %d',
    413
  ),
  RequestTooLarge: createError<[string]>(
    'FST_PGWS_REQUEST_TOO_LARGE',
    'One request publishes at most %s: send several',
    413
  ),
  /** `sqlstate` says more (errcodes-appendix.html). */
  Rejected: createError<[string]>('FST_PGWS_REJECTED', '%s', 422),
  NotAuthorized: createError<[string]>(
    'FST_PGWS_NOT_AUTHORIZED',
    'The database does not allow this on the channel "%s"',
    403
  ),
  RoleNotAllowed: createError(
    'FST_PGWS_ROLE_NOT_ALLOWED',
    'The token names no database role that the server may take ("roleClaim", PGWS_ROLE_CLAIM)',
    403
  ),
  /** The causes of this and the next two are for the log: clients must not learn where the database is. */
  DatabaseAway: createError<[string, { cause: Error }?]>(
    'FST_PGWS_DATABASE_AWAY',
    'The database is away, the message was not published: %s',
    503
  ),
  /** The cause is PostgreSQL's own error. */
  NotAccepted: createError<[string, { cause: Error }?]>(
    'FST_PGWS_NOT_ACCEPTED',
    'The database refused the message: %s',
    503
  ),
  OutcomeUnknown: createError<[string, { cause: Error }?]>(
    'FST_PGWS_OUTCOME_UNKNOWN',
    'It is unknown whether the database accepted the message: %s',
    503
  ),
  NodesUnavailable: createError<[string]>(
    'FST_PGWS_NODES_UNAVAILABLE',
    'The other nodes cannot be asked: %s',
    503
  ),
  NoSuchSession: createError('FST_PGWS_NO_SUCH_SESSION', 'No node knows the session: connect again', 404),
  MethodNotAllowed: createError<[string]>(
    'FST_PGWS_METHOD_NOT_ALLOWED',
    'This address takes %s requests only',
    405
  ),
  NoSuchConnection: createError('FST_PGWS_NO_SUCH_CONNECTION', 'No node has a connection with this id', 404),
  BadQuery: createError<[string]>('FST_PGWS_BAD_QUERY', 'Malformed request: %s', 400),
  CannotListen: createError<[string]>(
    'FST_PGWS_CANNOT_LISTEN',
    'The connection cannot LISTEN, because %s with the option "listenerUri" (PGWS_LISTENER_URI)',
    500
  ),
  /** The cause says what to grant to whom. */
  MissingGrant: createError<[{ cause: Error }]>(
    'FST_PGWS_MISSING_GRANT',
    'The server may not use the schema "pgws" of the database',
    503
  ),
  ChannelRefused: createError<[string, string]>(
    'FST_PGWS_CHANNEL_REFUSED',
    'The database cannot listen to the channel "%s": %s',
    400
  ),
  SchemaTooNew: createError<[number, number]>(
    'FST_PGWS_SCHEMA_TOO_NEW',
    'The schema "pgws" of the database has version %d, this server knows up to %d: upgrade fastify-pg-websockets',
    500
  ),
  SchemaTooOld: createError<[number, number]>(
    'FST_PGWS_SCHEMA_TOO_OLD',
    'The schema "pgws" of the database has version %d, this server needs %d: run "npx fastify-pg-websockets migrate", or set the option "migrate" (PGWS_MIGRATE=true)',
    503
  ),
  FunctionMissing: createError<[string, string, string]>(
    'FST_PGWS_FUNCTION_MISSING',
    'The database has no function %s returning %s, which the option "%s" names',
    500
  ),
  NotInstalled: createError(
    'FST_PGWS_NOT_INSTALLED',
    'The schema "pgws" is not installed in this database: run "npx fastify-pg-websockets migrate", or set the option "migrate" (PGWS_MIGRATE=true)',
    501
  ),
  UnknownPosition: createError(
    'FST_PGWS_UNKNOWN_POSITION',
    '"since" is not an id of the current epoch of this database: replace your data with what "since=earliest" returns',
    409
  ),
  NoPresence: createError(
    'FST_PGWS_NO_PRESENCE',
    'The channel does not track presence: no pattern of the option "presenceChannels" (PGWS_PRESENCE_CHANNELS) matches it',
    404
  ),
  OriginNotAllowed: createError(
    'FST_PGWS_ORIGIN_NOT_ALLOWED',
    'Pages of this origin may not connect: it is not in "allowedOrigins" (PGWS_ALLOWED_ORIGINS)',
    403
  ),
  TooManyConnections: createError(
    'FST_PGWS_TOO_MANY_CONNECTIONS',
    'The server has reached its limit of connections: try again later',
    503
  ),
  TooManyConnectionsFromAddress: createError(
    'FST_PGWS_TOO_MANY_CONNECTIONS_FROM_ADDRESS',
    'Your address has reached its limit of connections',
    429
  ),
  TooManyChannels: createError<[number]>(
    'FST_PGWS_TOO_MANY_CHANNELS',
    'A connection may join at most %d channels: name fewer in the address or in the token',
    403
  ),
  TooManyPublishChannels: createError<[number, number]>(
    'FST_PGWS_TOO_MANY_CHANNELS',
    'The request names %d channels; it may name at most %d: send several requests',
    400
  ),
  ShuttingDown: createError('FST_PGWS_SHUTTING_DOWN', 'The server is shutting down', 503),
  ListenerUnavailable: createError<[string, { cause: Error }?]>(
    'FST_PGWS_LISTENER_UNAVAILABLE',
    'Could not listen to the database: %s',
    503
  ),
  /** To the error handler of the Socket.IO adapter. */
  SocketIoGap: createError<[number]>(
    'FST_PGWS_SOCKET_IO_GAP',
    'The Socket.IO adapter was away from the database for %d ms: what other servers sent meanwhile may be lost'
  ),
  SocketIoPacketLost: createError<[string]>(
    'FST_PGWS_SOCKET_IO_PACKET_LOST',
    'A packet of another Socket.IO server is lost: %s'
  ),
  SocketIoNotPublished: createError<[string]>(
    'FST_PGWS_SOCKET_IO_NOT_PUBLISHED',
    'A packet did not reach the other Socket.IO servers: %s'
  ),
  InvalidOption: createError<[string, string]>(
    'FST_PGWS_INVALID_OPTION',
    'fastify-pg-websockets: option "%s" %s',
    500,
    TypeError
  )
}

/** A message with those of its causes, for the log alone: they may tell where the database is. */
export function fullMessageOf(error: unknown): string {
  const { cause } = (error ?? {}) as { cause?: unknown }
  const message = messageOf(error)
  if (cause === undefined) return message
  const inner = fullMessageOf(cause)
  return message.includes(inner) ? message : `${message}: ${inner}`
}

/**
 * SQLSTATEs (errcodes-appendix.html) with which the database refuses who we are: a wrong password, no entry in
 * pg_hba.conf, no such role or database, a permission that is missing.
 */
const REFUSED = /^(?:28|3D000|42501)/

/**
 * Whether a first connection, or what is first done on it, failed for a reason that no further try mends. Later the same
 * may be a password that is just being changed, or a database that is just being restored.
 */
export function isRefusal(error: unknown): boolean {
  const { code, severity, cause } = (error ?? {}) as { code?: string; severity?: string; cause?: unknown }
  if (error instanceof errors.MissingGrant || error instanceof errors.SchemaTooNew) return true
  if (severity !== undefined && code !== undefined && REFUSED.test(code)) return true
  return cause !== undefined && isRefusal(cause)
}

/**
 * The HTTP status and message of an unknown error, for a log line or an answer.
 * @param error anything that was thrown
 */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map(messageOf).join('; ')
  }
  return error instanceof Error ? error.message : String(error)
}

/** The code of an error, such as Node.js's `ENOENT`; undefined where it has none. */
export function codeOf(error: unknown): string | undefined {
  // Whoever throws may throw anything.
  const { code } = (error ?? {}) as { code?: unknown }
  return typeof code === 'string' ? code : undefined
}

/** The SQLSTATE of what the database has refused (errcodes-appendix.html); empty for anything else. */
export function sqlstateOf(error: unknown): string {
  return error instanceof errors.NotAccepted ? (codeOf(error.cause) ?? '') : ''
}

/** Classes of SQLSTATEs that another try may mend: conflicts, resources, locks, an operator's intervention. */
const TEMPORARY = /^(?:40|53|55|57)/

/** Whether it is of no use to ask the database again for what has failed so. */
export function isPermanent(error: unknown): boolean {
  const permanent = [errors.SchemaTooNew, errors.NotInstalled, errors.MissingGrant]
  if (permanent.some((kind) => error instanceof kind)) return true
  return error instanceof errors.NotAccepted && !TEMPORARY.test(sqlstateOf(error))
}

/** SQLSTATEs of a character that an encoding does not have (errcodes-appendix.html): 22P05, and 22021 where there is none. */
const UNTRANSLATABLE = /^(?:22P05|22021)$/

/** Whether the database refused a statement over a character that its encoding does not have. */
export function isUntranslatable(error: unknown): boolean {
  return UNTRANSLATABLE.test(sqlstateOf(error))
}

/** @returns BadMessage for what holds a character that the database cannot; any other error as it is */
export function asBadMessage(error: unknown): unknown {
  if (!isUntranslatable(error)) return error
  const cause = (error as Error).cause as Error
  return new errors.BadMessage(`the database cannot hold it: ${cause.message}`, { cause })
}
