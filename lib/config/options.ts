import { readFileSync } from 'node:fs'
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { parseClaimPath, parseFunctionName } from '../auth/index.js'
import { channelNameProblem } from '../channel-name.js'
import { matchesPattern } from '../channel-pattern.js'
import { errors, messageOf } from '../errors.js'
import { checkDatabaseChannel } from '../postgres/index.js'
import { isOriginPattern } from './origins.js'

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
type List = string | readonly string[]

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

interface OptionSpec {
  type: 'string' | 'boolean' | 'integer' | 'list'
  minimum?: number
  maximum?: number
  default?: string | boolean | number
  required?: boolean
}

/** The longest time that a timer can take, in milliseconds: setInterval fires at once for more. */
const MAX_INTEGER = 2 ** 31 - 1

/** Options that no variable sets. */
const PLUGIN_ONLY = ['prefix', 'endpoints', 'decorator'] as const
export type PluginOnly = (typeof PLUGIN_ONLY)[number]

/** Each option once: type, default, bounds. The app's `PGWS_SOME_NAME` is the option `someName`. */
export const optionSpecs: Record<Exclude<keyof PgWebsocketsOptions, PluginOnly>, OptionSpec> = {
  dbUri: { type: 'string', required: true },
  listenerUri: { type: 'string' },
  jwtSecret: { type: 'string' },
  jwtSecretBase64: { type: 'boolean', default: false },
  jwksUrl: { type: 'string' },
  jwtAudience: { type: 'string' },
  jwtIssuer: { type: 'string' },
  modeClaim: { type: 'string' },
  defaultMode: { type: 'string' },
  channelsClaim: { type: 'string' },
  channelPatternsClaim: { type: 'string' },
  adminClaim: { type: 'string' },
  tokenCookie: { type: 'string' },
  allowedOrigins: { type: 'list' },
  listenChannel: { type: 'string', default: 'postgres-websockets-listener' },
  rawChannels: { type: 'list' },
  presenceChannels: { type: 'list' },
  metaChannel: { type: 'string' },
  envelopeClaims: { type: 'list', default: 'all' },
  poolSize: { type: 'integer', minimum: 1, default: 10 },
  retries: { type: 'integer', minimum: 1, default: 5 },
  checkListenerInterval: { type: 'integer', minimum: 0, default: 10_000 },
  readyTimeout: { type: 'integer', minimum: 0, default: 5000 },
  publishTimeout: { type: 'integer', minimum: 0, default: 10_000 },
  shutdownTimeout: { type: 'integer', minimum: 100, default: 5000 },
  nodeTimeout: { type: 'integer', minimum: 100, default: 10_000 },
  migrate: { type: 'boolean', default: false },
  maxBufferedBytes: { type: 'integer', minimum: 1, default: 1024 * 1024 },
  maxTotalBufferedBytes: { type: 'integer', minimum: 1, default: 256 * 1024 * 1024 },
  slowTimeout: { type: 'integer', minimum: 0, default: 5000 },
  maxMessageBytes: { type: 'integer', minimum: 1, default: 1024 * 1024 },
  maxHistoryBytes: { type: 'integer', minimum: 1, default: 8 * 1024 * 1024 },
  maxConnections: { type: 'integer', minimum: 1 },
  maxConnectionsPerIp: { type: 'integer', minimum: 1 },
  maxChannelsPerConnection: { type: 'integer', minimum: 1, default: 100 },
  messageRate: { type: 'integer', minimum: 1, default: 5000 },
  httpRateLimit: { type: 'integer', minimum: 1 },
  metrics: { type: 'boolean', default: true },
  metricsPort: { type: 'integer', maximum: 65535 },
  documentation: { type: 'boolean', default: true },
  onMessageFunction: { type: 'string' },
  authorizeFunction: { type: 'string' },
  authorizeTtl: { type: 'integer', minimum: 0, default: 0 },
  onConnectFunction: { type: 'string' },
  onDisconnectFunction: { type: 'string' },
  roleClaim: { type: 'string' }
}

const FUNCTION_OPTIONS = [
  'onMessageFunction',
  'authorizeFunction',
  'onConnectFunction',
  'onDisconnectFunction'
] as const

const CLAIM_OPTIONS = [
  'modeClaim',
  'channelsClaim',
  'channelPatternsClaim',
  'adminClaim',
  'roleClaim'
] as const

/** The variable of an option: `someName` → `PGWS_SOME_NAME`. */
export function variableOf(option: string): string {
  return `PGWS_${option.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

/**
 * Checks the options and fills in what is not given.
 * @throws InvalidOption that names the option and what it expects; never its value, which may be a secret
 */
export function resolveOptions(options: PgWebsocketsOptions): ResolvedOptions {
  const given = options as unknown as Record<string, unknown>
  const resolved: Record<string, unknown> = {
    prefix: options.prefix ?? '',
    decorator: checkDecorator(options.decorator ?? 'pgws'),
    endpoints: checkEndpoints(options.endpoints ?? [])
  }
  for (const [name, spec] of Object.entries(optionSpecs)) {
    // An empty text is unset, as it is for variables.
    const value = given[name] === '' || given[name] === null ? undefined : given[name]
    if (value === undefined) {
      if (spec.required) {
        throw new errors.InvalidOption(name, `(${variableOf(name)}) is required: ${REQUIRED[name]}`)
      }
      resolved[name] = spec.default
      continue
    }
    const [least, most] = boundsOf(spec)
    const right =
      spec.type === 'integer'
        ? Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most
        : spec.type === 'list'
          ? [value].flat().every((item) => typeof item === 'string')
          : typeof value === spec.type
    if (!right) throw new errors.InvalidOption(name, `(${variableOf(name)}) must be ${expectation(spec)}`)
    resolved[name] = value
  }
  for (const [name, { type }] of Object.entries(optionSpecs)) {
    if (type === 'list') resolved[name] = readList(resolved[name] as List | undefined)
  }
  for (const name of Object.keys(given)) {
    if (!PLUGIN_ONLY.includes(name as PluginOnly) && !Object.hasOwn(optionSpecs, name)) {
      throw new errors.InvalidOption(name, `is unknown; known are ${Object.keys(optionSpecs).join(', ')}`)
    }
  }
  const all = resolved as unknown as ResolvedOptions
  checkEnvelopeClaims(all.envelopeClaims)
  all.dbUri = readFileValue('dbUri', all.dbUri).trim()
  if (all.listenerUri !== undefined) all.listenerUri = readFileValue('listenerUri', all.listenerUri).trim()
  if (all.jwtSecret !== undefined) {
    // One trailing newline is what editors add; all other white space may belong to the secret.
    all.jwtSecret = readFileValue('jwtSecret', all.jwtSecret).replace(
      /\r?\n$/,
      all.jwtSecret.startsWith('@') ? '' : '$&'
    )
  } else if (all.jwksUrl === undefined) {
    throw new errors.InvalidOption(
      'jwtSecret',
      `(PGWS_JWT_SECRET) is required: ${REQUIRED.jwtSecret}; or set jwksUrl (PGWS_JWKS_URL)`
    )
  }
  if (all.jwksUrl !== undefined && !isFetchable(all.jwksUrl)) {
    throw new errors.InvalidOption(
      'jwksUrl',
      '(PGWS_JWKS_URL) must be a URL with https: or http:, and without a user or password'
    )
  }
  if (all.tokenCookie !== undefined && all.allowedOrigins === undefined) {
    // Browsers send cookies from any page's sockets (cross-site websocket hijacking).
    throw new errors.InvalidOption(
      'tokenCookie',
      '(PGWS_TOKEN_COOKIE) needs allowedOrigins (PGWS_ALLOWED_ORIGINS): otherwise any page could use the cookie'
    )
  }
  const wrong = all.allowedOrigins?.find((origin) => !isOriginPattern(origin))
  if (wrong !== undefined) {
    throw new errors.InvalidOption(
      'allowedOrigins',
      `(PGWS_ALLOWED_ORIGINS) holds "${wrong}"; expected are origins as https://example.org, or *.example.org`
    )
  }
  const problem = all.metaChannel === undefined ? undefined : channelNameProblem(all.metaChannel)
  if (problem !== undefined) throw new errors.InvalidOption('metaChannel', `(PGWS_META_CHANNEL): ${problem}`)
  try {
    checkDatabaseChannel(all.listenChannel)
  } catch (error) {
    throw new errors.InvalidOption('listenChannel', `(PGWS_LISTEN_CHANNEL): ${messageOf(error)}`)
  }
  checkRawChannels(all)
  for (const name of FUNCTION_OPTIONS) {
    if (all[name] !== undefined && parseFunctionName(all[name]) === undefined) {
      throw new errors.InvalidOption(name, `(${variableOf(name)}) must be "schema.function"`)
    }
  }
  for (const name of CLAIM_OPTIONS) {
    if (all[name] !== undefined && parseClaimPath(all[name]) === undefined) {
      throw new errors.InvalidOption(
        name,
        `(${variableOf(name)}) must be the name of a claim, or a path such as .realm_access.roles or ."https://example.org/roles"[0]`
      )
    }
  }
  if (all.defaultMode !== undefined && !/^(?:r|w|rw)$/.test(all.defaultMode)) {
    throw new errors.InvalidOption('defaultMode', '(PGWS_DEFAULT_MODE) must be r, w or rw')
  }
  if (all.roleClaim !== undefined && FUNCTION_OPTIONS.every((name) => all[name] === undefined)) {
    throw new errors.InvalidOption(
      'roleClaim',
      `(PGWS_ROLE_CLAIM) is of no use without one of ${FUNCTION_OPTIONS.join(', ')}: nothing else runs under a role`
    )
  }
  return all
}

/**
 * Whoever joins a raw channel reads and writes the database channel of that name: it must be none of those that carry what
 * others may not see, or say.
 * @throws InvalidOption
 */
function checkRawChannels({ rawChannels, endpoints }: ResolvedOptions): void {
  for (const pattern of rawChannels ?? []) {
    const channel = endpoints
      .flatMap(({ channels }) => channels)
      .find((name) => matchesPattern(pattern, name))
    if (channel !== undefined) {
      throw new errors.InvalidOption(
        'rawChannels',
        `(PGWS_RAW_CHANNELS) holds "${pattern}", which matches the database channel "${channel}" of an endpoint (endpoints, PGWS_AUDIENCE_CHANNELS): whoever joined it would read what is for all audiences, and could write it`
      )
    }
  }
}

const REQUIRED: Record<string, string> = {
  dbUri: 'a libpq connection URI or keyword string, or @file',
  jwtSecret: 'a secret, a JWK, a JWK set, a public key in PEM, or @file'
}

/** `all` and `none` stand alone, and as they are written: "None" would be a claim that nobody has. */
function checkEnvelopeClaims(names: readonly string[]): void {
  const word = names.find((name) => /^(all|none)$/i.test(name))
  if (word !== undefined && (names.length > 1 || word !== word.toLowerCase())) {
    throw new errors.InvalidOption(
      'envelopeClaims',
      '(PGWS_ENVELOPE_CLAIMS) must be all, none (in small letters, and alone), or the names of claims'
    )
  }
}

function checkDecorator(name: unknown): string {
  if (typeof name === 'string' && name !== '') return name
  throw new errors.InvalidOption('decorator', 'must be the name of a decorator, a text that is not empty')
}

function checkEndpoints(endpoints: readonly AudienceEndpoint[]): readonly AudienceEndpoint[] {
  const list = Array.isArray(endpoints) ? endpoints : [undefined]
  for (const endpoint of list) {
    const { path, channels, audiences } = (endpoint ?? {}) as Partial<AudienceEndpoint>
    const fits =
      typeof path === 'string' &&
      path.startsWith('/') &&
      Array.isArray(channels) &&
      channels.length > 0 &&
      (audiences === undefined || typeof audiences === 'function')
    if (!fits) {
      throw new errors.InvalidOption(
        'endpoints',
        'must be a list of { path: "/…", channels: ["…"], audiences?: (request) => ["…"] }'
      )
    }
    try {
      for (const channel of channels) checkDatabaseChannel(channel)
    } catch (error) {
      throw new errors.InvalidOption('endpoints', messageOf(error))
    }
  }
  return list as readonly AudienceEndpoint[]
}

function readList(value: List | undefined): readonly string[] | undefined {
  const items = (typeof value === 'string' ? value.split(',') : (value ?? [])).map((item) => item.trim())
  return value === undefined ? undefined : items.filter((item) => item !== '')
}

/** fetch() refuses a URL with a password, and repeats it in its error (https://fetch.spec.whatwg.org/#dom-request). */
function isFetchable(text: string): boolean {
  if (!URL.canParse(text)) return false
  const { protocol, username, password } = new URL(text)
  return /^https?:$/.test(protocol) && username === '' && password === ''
}

/** The least and the most that an integer may be. */
export function boundsOf({ minimum = 0, maximum = MAX_INTEGER }: OptionSpec): [number, number] {
  return [minimum, maximum]
}

/** What a value must be, in words. */
export function expectation(spec: OptionSpec): string {
  if (spec.type === 'boolean') return 'true or false'
  if (spec.type === 'integer') return `a whole number from ${boundsOf(spec).join(' to ')}`
  if (spec.type === 'list') return 'a list of texts, or one text with commas'
  return 'a text'
}

function readFileValue(name: string, value: string): string {
  if (!value.startsWith('@')) return value
  try {
    return readFileSync(value.slice(1), 'utf8')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw new errors.InvalidOption(name, `(${variableOf(name)}) names a file that cannot be read (${code})`)
  }
}
