import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'

/** What an endpoint's function is given: Fastify's request. */
export interface EndpointRequest {
  readonly raw: IncomingMessage
  readonly headers: IncomingHttpHeaders
  readonly query: unknown
  readonly ip: string
}

/** An endpoint as pgws has them. */
export interface AudienceEndpoint {
  /** Where sockets come to, below the prefix. */
  path: string
  /** The database channels whose notifications `audience,{json object}` go to its sockets. */
  channels: readonly string[]
  /**
   * Which audiences a request belongs to; none, or an error, is 403. Default: those of its token's claim
   * `audiences`.
   */
  audiences?(request: EndpointRequest): readonly string[] | Promise<readonly string[]>
  /** Without the function: who brings no token, or one without the claim, belongs to `default`. */
  public?: boolean | undefined
}

/** A list, or one text with commas. */
export type List = string | readonly string[]

/** What `fastify.register(pgWebsockets, options)` takes. Durations are milliseconds. */
export interface PgWebsocketsOptions {
  /** A libpq connection URI or keyword string; `@file` reads it from a file. */
  dbUri: string
  /** The same for the listening connection, where the pool goes through a pooler. Default: `dbUri`. */
  listenerUri?: string | undefined
  /** A secret, a JWK, a JWK set or a public key in PEM; `@file` reads it from a file. */
  jwtSecret?: string | undefined
  /** The secret is base64. Default: false. */
  jwtSecretBase64?: boolean | undefined
  /** Where an identity provider publishes its JWK set. Either this or `jwtSecret` is required. */
  jwksUrl?: string | undefined
  /** What a token's `aud` must hold. */
  jwtAudience?: string | undefined
  /** What a token's `iss` must be. */
  jwtIssuer?: string | undefined
  /**
   * The claim that holds the mode: a name, or a path as PostgREST's `jwt-role-claim-key`, such as `.realm_access.roles`.
   * Of a list, its members `r`, `w` and `rw` count. Default: `mode`.
   */
  modeClaim?: string | undefined
  /** The mode of tokens that have none: `r`, `w` or `rw`. Default: they are refused. */
  defaultMode?: string | undefined
  /**
   * The claim that holds the channels, likewise: a list, or one name. Where this or `channelPatternsClaim` is given, a
   * token with neither claim allows no channel. Default: `channels` and `channel`.
   */
  channelsClaim?: string | undefined
  /** The claim that holds the patterns of channels, likewise. Default: `channel_patterns`. */
  channelPatternsClaim?: string | undefined
  /** The claim that is `true` for an admin, or a list with `admin`, likewise. Default: `admin`. */
  adminClaim?: string | undefined
  /** The cookie that may carry a token; needs `allowedOrigins`. */
  tokenCookie?: string | undefined
  /** The browsers' origins that may connect: exact ones, or `*.example.org`. Default: all. */
  allowedOrigins?: List | undefined
  /** The database channel that carries the messages. Default: `postgres-websockets-listener`. */
  listenChannel?: string | undefined
  /** Patterns of channels that are database channels of the same name, whose payloads pass as they are. */
  rawChannels?: List | undefined
  /** Patterns of channels of which it is known who is there. Default: none. */
  presenceChannels?: List | undefined
  /** The websocket channel that is told of connections. Default: none. */
  metaChannel?: string | undefined
  /** Which of a sender's claims others see: `all`, `none`, or their names. Default: `all`. */
  envelopeClaims?: List | undefined
  /** How many connections publish. Default: 10. */
  poolSize?: number | undefined
  /** How many times the first connection is tried where the listener is not supervised. Default: 5. */
  retries?: number | undefined
  /** How often the listener's connection must prove that it is alive; 0 or unset in the app: never. */
  checkListenerInterval?: number | undefined
  /** How long `ready()` waits for a database that is not there, where the listener is supervised. */
  readyTimeout?: number | undefined
  /** How long a socket's message waits for a database that is away. Default: 10 s. */
  publishTimeout?: number | undefined
  /** How long sockets and messages have to end in order. Default: 5 s. */
  shutdownTimeout?: number | undefined
  /** After how much silence another node counts as dead. Default: 10 s. */
  nodeTimeout?: number | undefined
  /** Install or upgrade the schema `pgws` at the start. Default: false. */
  migrate?: boolean | undefined
  /** How many bytes may wait for a client that does not read; 16 times as many for one that does. Default: 1 MiB. */
  maxBufferedBytes?: number | undefined
  /** How many bytes may wait for all clients; what is written to many at once counts once. Default: 256 MiB. */
  maxTotalBufferedBytes?: number | undefined
  /** How long more than `maxBufferedBytes` may wait for a client that reads. Default: 5 s. */
  slowTimeout?: number | undefined
  /** The largest message that a socket may send. Default: 1 MiB. */
  maxMessageBytes?: number | undefined
  /** How many bytes of stored messages one answer may have; the next page holds the rest. Default: 8 MiB. */
  maxHistoryBytes?: number | undefined
  /** How many sockets may be open. Default: unlimited. */
  maxConnections?: number | undefined
  /** How many of them from one address. Default: unlimited. */
  maxConnectionsPerIp?: number | undefined
  /** How many channels one socket may join, and one `POST /publish` may name. Default: 100. */
  maxChannelsPerConnection?: number | undefined
  /** How many messages, commands and pings a client may send in a second before we stop to read it. Default: 5000. */
  messageRate?: number | undefined
  /** How many HTTP requests an address may send in a minute. Default: unlimited. */
  httpRateLimit?: number | undefined
  /** Serve `GET /metrics`. Default: true. */
  metrics?: boolean | undefined
  /** Serve the metrics on a port of their own instead. */
  metricsPort?: number | undefined
  /** Serve the OpenAPI document and its page below `/documentation`. Default: true. */
  documentation?: boolean | undefined
  /** `schema.function`: each message is passed to it, in the transaction that publishes what it returns. */
  onMessageFunction?: string | undefined
  /** `schema.function`: says whether a client may join a channel, or publish to it. */
  authorizeFunction?: string | undefined
  /** How long its answer may be used again. Default: 0, never. */
  authorizeTtl?: number | undefined
  /** `schema.function`: told of each client that has connected. */
  onConnectFunction?: string | undefined
  /** `schema.function`: told of each client that has gone. */
  onDisconnectFunction?: string | undefined
  /** The claim that names the database role, likewise, under which these functions are called. Default: the server's own. */
  roleClaim?: string | undefined
  /** Endpoints with audiences, as pgws has them. */
  endpoints?: readonly AudienceEndpoint[] | undefined
  /** Put before all addresses, as everywhere in Fastify. */
  prefix?: string
  /** The name of the decorator, where the plugin is registered more than once. Default: `pgws`. */
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

/** The options with all defaults in place and `@file` values read. */
export type ResolvedOptions = Omit<
  { [Name in keyof PgWebsocketsOptions]-?: NonNullable<PgWebsocketsOptions[Name]> },
  Optional | 'allowedOrigins' | 'envelopeClaims' | 'rawChannels' | 'presenceChannels'
> & { [Name in Optional]: PgWebsocketsOptions[Name] } & {
  allowedOrigins: readonly string[] | undefined
  envelopeClaims: readonly string[]
  rawChannels: readonly string[] | undefined
  presenceChannels: readonly string[] | undefined
}
