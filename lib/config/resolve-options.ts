import { parseClaimPath, parseFunctionName } from '../auth/index.js'
import { channelNameProblem } from '../channel-name.js'
import { matchesPattern } from '../channel-pattern.js'
import { errors, messageOf } from '../errors.js'
import { isInteger } from '../json-value.js'
import { checkDatabaseChannel } from '../postgres/index.js'
import { resolveBus } from './bus.js'
import { readFileValue } from './file-value.js'
import { boundsOf, expectation, optionSpecs, PLUGIN_ONLY, variableOf } from './option-specs.js'
import type { AudienceEndpoint, List, PgWebsocketsOptions, ResolvedOptions } from './options.js'
import { isOriginPattern } from './origins.js'

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

/**
 * Checks the options, and sets the defaults.
 * @throws InvalidOption that names the option and what it expects. It never contains the value, which may be a secret.
 */
export function resolveOptions(options: PgWebsocketsOptions): ResolvedOptions {
  const given: Record<string, unknown> = { ...options }
  const resolved: Partial<ResolvedOptions> & Record<string, unknown> = {
    prefix: options.prefix ?? '',
    decorator: checkDecorator(options.decorator ?? 'pgws'),
    endpoints: checkEndpoints(options.endpoints ?? [])
  }
  for (const [name, spec] of Object.entries(optionSpecs)) {
    // An empty string means unset, as for environment variables.
    const value = given[name] === '' || given[name] === null ? undefined : given[name]
    if (value === undefined) {
      if (spec.required) {
        throw new errors.InvalidOption(name, `(${variableOf(name)}) is required: ${REQUIRED[name]}`)
      }
      resolved[name] = spec.default
      continue
    }
    const [minimum, maximum] = boundsOf(spec)
    const isValid =
      spec.type === 'integer'
        ? isInteger(value) && value >= minimum && value <= maximum
        : spec.type === 'list'
          ? [value].flat().every((item) => typeof item === 'string')
          : typeof value === spec.type
    if (!isValid) throw new errors.InvalidOption(name, `(${variableOf(name)}) must be ${expectation(spec)}`)
    resolved[name] = value
  }
  for (const [name, { type }] of Object.entries(optionSpecs)) {
    // The loop above has checked it.
    if (type === 'list') resolved[name] = readList(resolved[name] as List | undefined)
  }
  for (const name of Object.keys(given)) {
    if (!PLUGIN_ONLY.some((known) => known === name) && !Object.hasOwn(optionSpecs, name)) {
      throw new errors.InvalidOption(
        name,
        `is unknown; the options are ${Object.keys(optionSpecs).join(', ')}`
      )
    }
  }
  // Each option was checked against its spec.
  const all = resolved as ResolvedOptions
  checkEnvelopeClaims(all.envelopeClaims)
  all.dbUri = readUri('dbUri', all.dbUri)
  if (all.listenerUri !== undefined) all.listenerUri = readUri('listenerUri', all.listenerUri)
  if (all.jwtSecret !== undefined) {
    all.jwtSecret = readSecret(all.jwtSecret)
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
      `(PGWS_ALLOWED_ORIGINS) contains "${wrong}", which is not an origin such as https://example.org or *.example.org`
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
  resolveBus(all)
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
      `(PGWS_ROLE_CLAIM) has no effect without one of ${FUNCTION_OPTIONS.join(', ')}: set one of them, or remove this option`
    )
  }
  return all
}

/**
 * Checks that no raw channel is a database channel with messages that its clients may not read or write. A client of a raw
 * channel reads and writes the database channel of that name.
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
        `(PGWS_RAW_CHANNELS) contains "${pattern}", which matches the database channel "${channel}" of an endpoint (endpoints, PGWS_AUDIENCE_CHANNELS): clients could read and write messages for every audience`
      )
    }
  }
}

const REQUIRED: Record<string, string> = {
  dbUri: 'a libpq connection URI or keyword string, or @file',
  jwtSecret: 'a secret, a JWK, a JWK set, a public key in PEM, or @file'
}

/** `all` and `none` must be the only element, and in lower case, because "None" would be the name of a claim. */
function checkEnvelopeClaims(names: readonly string[]): void {
  const word = names.find((name) => /^(all|none)$/i.test(name))
  if (word !== undefined && (names.length > 1 || word !== word.toLowerCase())) {
    throw new errors.InvalidOption(
      'envelopeClaims',
      '(PGWS_ENVELOPE_CLAIMS) must be all, none (in lower case, and alone), or the names of claims'
    )
  }
}

function checkDecorator(name: unknown): string {
  if (typeof name === 'string' && name !== '') return name
  throw new errors.InvalidOption('decorator', 'must be the name of a decorator, a non-empty string')
}

function checkEndpoints(endpoints: readonly AudienceEndpoint[]): readonly AudienceEndpoint[] {
  const list = Array.isArray(endpoints) ? endpoints : [undefined]
  for (const endpoint of list) {
    const { path, channels, audiences }: Partial<AudienceEndpoint> = endpoint ?? {}
    const isValid =
      typeof path === 'string' &&
      path.startsWith('/') &&
      Array.isArray(channels) &&
      channels.length > 0 &&
      (audiences === undefined || typeof audiences === 'function')
    if (!isValid) {
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
  return endpoints
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

/**
 * The connection string that an option holds, or whose file it names.
 * @throws InvalidOption if the file cannot be read
 */
export function readUri(option: 'dbUri' | 'listenerUri', value: string): string {
  return readFileValue(option, value).trim()
}

/** The key that `jwtSecret` holds, or whose file it names. Editors add one trailing newline; all other white space stays. */
function readSecret(value: string): string {
  return readFileValue('jwtSecret', value).replace(/\r?\n$/, value.startsWith('@') ? '' : '$&')
}
