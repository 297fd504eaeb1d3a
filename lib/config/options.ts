import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'

/** What `audiences` of an endpoint is called with: Fastify's request. */
export interface EndpointRequest {
  readonly raw: IncomingMessage
  readonly headers: IncomingHttpHeaders
  readonly query: unknown
  readonly ip: string
}

/** An endpoint with audiences, as in pgws (docs/migrating/pgws.md). */
export interface AudienceEndpoint {
  /** The path at which clients connect, below the prefix. It begins with `/`. */
  path: string
  /** The database channels whose notifications, `audience,{json object}`, go to the clients of this endpoint. */
  channels: readonly string[]
  /**
   * Returns the audiences that a request belongs to. If it returns none, or throws, the request is refused with 403.
   * Default: the audiences in the claim `audiences` of the request's token.
   */
  audiences?(request: EndpointRequest): readonly string[] | Promise<readonly string[]>
  /**
   * Without `audiences`: whether a request without a token, or whose token lacks the claim, belongs to the audience
   * `default`. Default: false.
   */
  public?: boolean | undefined
}

/** A list, or one string with commas. */
export type List = string | readonly string[]

/**
 * What `fastify.register(pgWebsockets, options)` takes. Durations are in milliseconds, sizes in bytes. A list may be an
 * array, or one string with commas. An empty string means that an option is not set. docs/options.md says more.
 */
export interface PgWebsocketsOptions {
  /**
   * A libpq connection URI or keyword string, or `@file` to read it from a file. Required.
   * https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
   */
  dbUri: string
  /** The same for the connection that listens. Set it if `dbUri` leads to a connection pooler. Default: `dbUri`. */
  listenerUri?: string | undefined
  /**
   * The key that verifies tokens: an HMAC secret, a JWK, a JWK set or a public key in PEM, or `@file` to read it from a
   * file. Either this or `jwksUrl` is required.
   */
  jwtSecret?: string | undefined
  /** Whether `jwtSecret` is encoded in base64. Default: false. */
  jwtSecretBase64?: boolean | undefined
  /** The URL of an identity provider's JWK set, from which public keys are fetched. Either this or `jwtSecret` is required. */
  jwksUrl?: string | undefined
  /** A value that the claim `aud` of a token must be, or contain. Default: not checked. */
  jwtAudience?: string | undefined
  /** The value that the claim `iss` of a token must have. Default: not checked. */
  jwtIssuer?: string | undefined
  /**
   * The claim that holds the mode: the name of a claim, or a path in the syntax of PostgREST's `jwt-role-claim-key`, such
   * as `.realm_access.roles`. If the claim is a list, its members `r`, `w` and `rw` count. Default: `mode`.
   */
  modeClaim?: string | undefined
  /** The mode of tokens that have none: `r`, `w` or `rw`. Default: such tokens are refused. */
  defaultMode?: string | undefined
  /**
   * The claim that holds the channels, a list or one name; a name or a path, as `modeClaim`. If this option or
   * `channelPatternsClaim` is set, a token with neither claim allows no channel. Default: `channels` and `channel`.
   */
  channelsClaim?: string | undefined
  /** The claim that holds patterns of channels; a name or a path, as `modeClaim`. Default: `channel_patterns`. */
  channelPatternsClaim?: string | undefined
  /**
   * The claim that makes its owner an administrator: it is `true`, or a list with `admin`. A name or a path, as
   * `modeClaim`. Default: `admin`.
   */
  adminClaim?: string | undefined
  /** The name of a cookie that may carry the token. Requires `allowedOrigins`. Default: no cookie is read. */
  tokenCookie?: string | undefined
  /**
   * Origins whose pages may connect: `https://example.org`, or `*.example.org` for all subdomains. Requests without an
   * `Origin` header pass. Default: all origins.
   */
  allowedOrigins?: List | undefined
  /** The database channel that carries the messages, 1 to 63 bytes. Default: `postgres-websockets-listener`. */
  listenChannel?: string | undefined
  /**
   * Patterns of channels that are database channels of the same name: payloads pass unchanged, without an envelope.
   * In a pattern, `*` matches any characters except `:`, and `**` matches any characters. Default: none.
   */
  rawChannels?: List | undefined
  /** Patterns, as in `rawChannels`, of channels that track presence. Default: none. */
  presenceChannels?: List | undefined
  /** The websocket channel that receives an event for each client that connects or disconnects. Default: none. */
  metaChannel?: string | undefined
  /** Which claims of a sender other clients see: `all`, `none`, or a list of names. Default: `all`. */
  envelopeClaims?: List | undefined
  /** Number of connections that publish. The listener has its own connection. Default: 10. */
  poolSize?: number | undefined
  /** Number of attempts to connect at startup if the listener is not supervised. Default: 5. */
  retries?: number | undefined
  /**
   * How often the listener must prove that it receives notifications; one that fails is replaced. 0: the listener is not
   * supervised, and the instance closes when it is lost. Default: 10 s.
   */
  checkListenerInterval?: number | undefined
  /** How long `ready()` waits for an unavailable database if the listener is supervised. Default: 5 s. */
  readyTimeout?: number | undefined
  /** How long a message from a websocket waits while the database is unavailable. Default: 10 s. */
  publishTimeout?: number | undefined
  /** How long a shutdown may take. Default: 5 s. */
  shutdownTimeout?: number | undefined
  /** How long another node may be silent before it is regarded as gone. Default: 10 s. */
  nodeTimeout?: number | undefined
  /** Whether to install or upgrade the schema `pgws` (durable channels) at startup. Default: false. */
  migrate?: boolean | undefined
  /**
   * The servers of a NATS cluster, `nats://host:4222` or `tls://host:4222`, that carry messages between nodes. It needs the
   * package @nats-io/transport-node. Default: PostgreSQL carries them.
   */
  bus?: List | undefined
  /**
   * The credentials of a user of NATS, or `@file`: the text of a creds file, the seed of an nkey, `user:password`, or a
   * token. Default: none.
   */
  busCredentials?: string | undefined
  /** Certificates in PEM, or `@file`, that sign those of the NATS servers. Default: those that Node.js trusts. */
  busCa?: string | undefined
  /** What all subjects of NATS begin with. Default: `pgws.` and a hash, another one for each database and listen channel. */
  busPrefix?: string | undefined
  /** Whether `bus` may lead to another host without TLS. Default: false. */
  busInsecure?: boolean | undefined
  /**
   * With `bus`: whether what clients send on channels that nobody retains is notified on the listen channel, too, for
   * listeners in SQL. Default: true.
   */
  notifySql?: boolean | undefined
  /**
   * Bytes that may wait for a client that does not read; the client is closed when it has read nothing for half of
   * `slowTimeout`. For a client that reads, 16 times as many bytes may wait. Default: 1 MiB.
   */
  maxBufferedBytes?: number | undefined
  /** Bytes that may wait for all clients. Data that is written to many clients counts once. Default: 256 MiB. */
  maxTotalBufferedBytes?: number | undefined
  /** How long more than `maxBufferedBytes` may wait for a client that reads. Default: 5 s. */
  slowTimeout?: number | undefined
  /** The largest message that a client may send. A larger one closes its websocket with 1009. Default: 1 MiB. */
  maxMessageBytes?: number | undefined
  /** Bytes of stored messages in one answer. The next page has the rest. Default: 8 MiB. */
  maxHistoryBytes?: number | undefined
  /** Number of open connections. Further ones are refused with 503. Default: unlimited. */
  maxConnections?: number | undefined
  /** Number of open connections from one IP address. Further ones are refused with 429. Default: unlimited. */
  maxConnectionsPerIp?: number | undefined
  /** Number of channels that one connection may join, and that one `POST /publish` may name. Default: 100. */
  maxChannelsPerConnection?: number | undefined
  /**
   * Messages, SDK commands and pings that a client may send in a second. A client that sends more is not read until its
   * rate is below the limit; it is not closed. Default: 5000.
   */
  messageRate?: number | undefined
  /** HTTP requests from one IP address in a minute. Further ones are answered with 429. Default: unlimited. */
  httpRateLimit?: number | undefined
  /** Whether to serve `GET /metrics`. Default: true. */
  metrics?: boolean | undefined
  /** A port of their own for the metrics, on all addresses; 0: any free port. Default: `GET /metrics` of the server. */
  metricsPort?: number | undefined
  /** Whether to serve the OpenAPI document and its page below `/documentation`. Default: true. */
  documentation?: boolean | undefined
  /** Whether to serve the page for operators at `/dashboard`. It asks for a token with `"admin": true`. Default: false. */
  dashboard?: boolean | undefined
  /** An SQL function, `schema.function`, that each message is passed to before it is published. Default: none. */
  onMessageFunction?: string | undefined
  /** An SQL function, `schema.function`, that decides who may join a channel or publish to it. Default: none. */
  authorizeFunction?: string | undefined
  /** How long a positive answer of `authorizeFunction` is cached. Default: 0, not at all. */
  authorizeTtl?: number | undefined
  /** An SQL function, `schema.function`, that is called for each client that has connected. Default: none. */
  onConnectFunction?: string | undefined
  /** An SQL function, `schema.function`, that is called for each client that has disconnected. Default: none. */
  onDisconnectFunction?: string | undefined
  /**
   * The claim that names the database role under which these functions run; a name or a path, as `modeClaim`. Default:
   * they run as the server's own role.
   */
  roleClaim?: string | undefined
  /** Endpoints with audiences, as in pgws. Default: none. */
  endpoints?: readonly AudienceEndpoint[] | undefined
  /** Prepended to all addresses, as everywhere in Fastify. Default: none. */
  prefix?: string
  /** The name of the decorator. Set it if the plugin is registered more than once. Default: `pgws`. */
  decorator?: string | undefined
}

/** The options without a default. */
type Optional =
  | 'jwtSecret'
  | 'listenerUri'
  | 'jwksUrl'
  | 'jwtAudience'
  | 'jwtIssuer'
  | 'modeClaim'
  | 'defaultMode'
  | 'channelsClaim'
  | 'channelPatternsClaim'
  | 'adminClaim'
  | 'tokenCookie'
  | 'metaChannel'
  | 'maxConnections'
  | 'maxConnectionsPerIp'
  | 'httpRateLimit'
  | 'metricsPort'
  | 'onMessageFunction'
  | 'authorizeFunction'
  | 'onConnectFunction'
  | 'onDisconnectFunction'
  | 'roleClaim'
  | 'busCredentials'
  | 'busCa'
  | 'busPrefix'

/** The options after their check: with the defaults, and with the contents of `@file`. */
export type ResolvedOptions = Omit<
  { [Name in keyof PgWebsocketsOptions]-?: NonNullable<PgWebsocketsOptions[Name]> },
  Optional | 'allowedOrigins' | 'envelopeClaims' | 'rawChannels' | 'presenceChannels' | 'bus'
> & { [Name in Optional]: PgWebsocketsOptions[Name] } & {
  allowedOrigins: readonly string[] | undefined
  envelopeClaims: readonly string[]
  rawChannels: readonly string[] | undefined
  presenceChannels: readonly string[] | undefined
  /** With scheme and port. */
  bus: readonly string[] | undefined
}
