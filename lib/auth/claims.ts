import { channelNameProblem } from '../channel-name.js'
import { errors } from '../errors.js'
import { isObject } from '../json-value.js'
import { type ClaimPath, parseClaimPath, valueAt } from './claim-path.js'

/** The claims of a verified token: a JSON object. */
export type Claims = Record<string, unknown>

/** What a mode allows. */
export interface Mode {
  readonly read: boolean
  readonly write: boolean
}

/** The channels that a token names. It allows no others. */
export interface NamedChannels {
  /** Those of the claim `channel` first. */
  readonly names: ReadonlySet<string>
  readonly patterns: readonly string[]
}

/** A verified token, parsed once. */
export interface Token {
  /** All claims. */
  readonly claims: Claims
  /** When it expires (`exp`), in milliseconds since the epoch; undefined: never. */
  readonly expiresAt: number | undefined
  readonly issuer: string | undefined
  readonly subject: string | undefined
  /** The claim `jti`. */
  readonly id: string | undefined
  /** The claim `iat`, in milliseconds since the epoch. */
  readonly issuedAt: number | undefined
  /** Undefined: the token has no mode. */
  readonly mode: Mode | 'unknown' | undefined
  /** Undefined: the token names no channels, and therefore allows any. */
  readonly channels: NamedChannels | undefined
  readonly admin: boolean
  /** The database role; undefined: the token names none. */
  readonly role: string | undefined
  /** The claim `subs`: the server-side subscriptions of an SDK's client. */
  readonly subs: Readonly<Record<string, unknown>>
  /** Why it is not a subscription token; undefined: it is one. */
  readonly subscriptionProblem: string | undefined
  /** The client that a subscription token is for; undefined: any. */
  readonly client: string | undefined
  /** What a subscription token allows in addition to reading. */
  readonly allow: readonly string[]
  /** The names of its mode and its admin claim in errors. */
  readonly claimNames: { readonly mode: string; readonly admin: string }
}

type Rule =
  | 'jwtAudience'
  | 'jwtIssuer'
  | 'modeClaim'
  | 'defaultMode'
  | 'channelsClaim'
  | 'channelPatternsClaim'
  | 'adminClaim'
  | 'roleClaim'

/** The options that say what a token must have, and where its claims are. */
export type TokenRules = { readonly [name in Rule]?: string | undefined }

/** The modes, by the value of the claim. */
export const MODES: ReadonlyMap<unknown, Mode> = new Map([
  ['r', { read: true, write: false }],
  ['w', { read: false, write: true }],
  ['rw', { read: true, write: true }]
])

/** How far the clocks of the token's issuer and of this server may differ, in seconds. */
const CLOCK_TOLERANCE = 30

/** Claims of connection tokens, which a subscription token must not have. */
const CONNECTION_CLAIMS = ['mode', 'channels', 'channel_patterns', 'subs']

/** The place of a claim, and its name in errors. */
interface Place {
  name: string
  path: ClaimPath
}

/**
 * Makes a function that parses the claims of verified tokens. A claim of the wrong type is refused, not ignored, because
 * ignoring it would change the identity or the rights of the client.
 * @param rules checked options
 * @returns a function that throws InvalidToken, TokenExpired (401), MalformedClaims (403)
 */
export function tokenReader(rules: TokenRules): (claims: Claims) => Token {
  const modePlace = placeOf(rules.modeClaim)
  const channelsPlace = placeOf(rules.channelsClaim)
  const patternsPlace = placeOf(rules.channelPatternsClaim)
  const adminPlace = placeOf(rules.adminClaim)
  const rolePlace = placeOf(rules.roleClaim)
  const defaultMode = MODES.get(rules.defaultMode)
  const claimNames = {
    mode: rules.modeClaim ?? 'mode',
    admin:
      rules.adminClaim === undefined ? '"admin": true' : `"${rules.adminClaim}": true, or a list with "admin"`
  }
  const places = [modePlace, channelsPlace, patternsPlace].filter((place) => place !== undefined)

  return function readToken(claims) {
    checkParties(claims, rules)
    checkDepth(claims)
    const expiresAt = checkTimes(claims)
    const subscriptionProblem = subscriptionProblemOf(claims)
    return {
      claims,
      expiresAt,
      issuer: optionalText(claims, 'iss'),
      subject: optionalText(claims, 'sub'),
      id: optionalText(claims, 'jti'),
      issuedAt: typeof claims.iat === 'number' ? claims.iat * 1000 : undefined,
      // Without this check, a subscription token would get the default mode if it is used as a connection token.
      mode: readMode(claims) ?? (subscriptionProblem === undefined ? undefined : defaultMode),
      channels: readChannels(claims),
      admin: readAdmin(claims),
      role: readRole(claims),
      subs: readSubs(claims),
      subscriptionProblem,
      client: subscriptionProblem === undefined ? optionalText(claims, 'client') : undefined,
      allow: subscriptionProblem === undefined ? (optionalTexts(claims.allow, 'allow') ?? []) : [],
      claimNames
    }
  }

  function readMode(claims: Claims): Token['mode'] {
    const value = modePlace === undefined ? claims.mode : valueAt(claims, modePlace.path)
    if (value === undefined) return undefined
    if (modePlace === undefined || !Array.isArray(value)) return MODES.get(value) ?? 'unknown'
    const members = optionalTexts(value, modePlace.name)!.flatMap((member) => MODES.get(member) ?? [])
    if (members.length === 0) return undefined
    return { read: members.some(({ read }) => read), write: members.some(({ write }) => write) }
  }

  function readChannels(claims: Claims): NamedChannels | undefined {
    const names =
      channelsPlace === undefined
        ? namesOf(claims)
        : textOrTexts(valueAt(claims, channelsPlace.path), channelsPlace.name)
    const patterns =
      patternsPlace === undefined
        ? optionalTexts(claims.channel_patterns, 'channel_patterns')
        : textOrTexts(valueAt(claims, patternsPlace.path), patternsPlace.name)
    for (const name of names ?? []) {
      const problem = channelNameProblem(name)
      if (problem !== undefined) throw new errors.MalformedClaims(problem)
    }
    const configured = channelsPlace !== undefined || patternsPlace !== undefined
    // A user to whom the identity provider has assigned no channels must not get all channels.
    if (names === undefined && patterns === undefined && !configured) return undefined
    return { names: new Set(names), patterns: patterns ?? [] }
  }

  function readAdmin(claims: Claims): boolean {
    if (adminPlace === undefined) return claims.admin === true
    const value = valueAt(claims, adminPlace.path)
    return value === true || (Array.isArray(value) && value.includes('admin'))
  }

  function readRole(claims: Claims): string | undefined {
    const role = rolePlace === undefined ? undefined : valueAt(claims, rolePlace.path)
    return typeof role === 'string' && role !== '' && isStorable(role) ? role : undefined
  }

  function subscriptionProblemOf(claims: Claims): string | undefined {
    const foreign =
      CONNECTION_CLAIMS.find((name) => claims[name] !== undefined) ??
      places.find(({ path }) => valueAt(claims, path) !== undefined)?.name
    if (foreign !== undefined) return `is a connection token, because it has "${foreign}"`
    return typeof claims.channel === 'string' ? undefined : 'has no claim "channel"'
  }
}

function placeOf(name: string | undefined): Place | undefined {
  return name === undefined ? undefined : { name, path: parseClaimPath(name)! }
}

/**
 * Checks the audience and the issuer of a token.
 * @throws InvalidToken (401)
 */
function checkParties({ aud, iss }: Claims, { jwtAudience, jwtIssuer }: TokenRules): void {
  if (jwtAudience !== undefined && ![aud].flat().includes(jwtAudience)) {
    throw new errors.InvalidToken(
      'the token is for another audience: its claim "aud" must be, or contain, that of the option "jwtAudience"'
    )
  }
  if (jwtIssuer !== undefined && iss !== jwtIssuer) {
    throw new errors.InvalidToken(
      'the token is from another issuer: its claim "iss" must be that of the option "jwtIssuer"'
    )
  }
}

/** The maximum nesting of claims. They are encoded again for messages, and JSON.stringify is recursive. */
const MAX_DEPTH = 100

/** @throws MalformedClaims (403) for claims that are nested too deep */
function checkDepth(claims: Claims): void {
  if (isDeeper(claims, MAX_DEPTH)) {
    throw new errors.MalformedClaims(`they may be nested at most ${MAX_DEPTH} levels deep`)
  }
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((member) => isDeeper(member, levels - 1))
}

/**
 * Checks a token's times (RFC 7519, sections 4.1.4 to 4.1.6): `exp` has not passed, `nbf` and `iat` are not
 * in the future by more than 30 s.
 * @param now milliseconds since the epoch
 * @returns when the token expires, in milliseconds since the epoch, or undefined
 * @throws TokenExpired, InvalidToken (401)
 */
function checkTimes(claims: Claims, now: number = Date.now()): number | undefined {
  const exp = numericDate(claims, 'exp')
  const nbf = numericDate(claims, 'nbf')
  const iat = numericDate(claims, 'iat')
  if (exp !== undefined && exp * 1000 <= now) throw new errors.TokenExpired()
  const latest = now / 1000 + CLOCK_TOLERANCE
  if (nbf !== undefined && nbf > latest)
    throw new errors.InvalidToken('the token is not valid yet: its claim "nbf" is in the future')
  if (iat !== undefined && iat > latest) {
    throw new errors.InvalidToken('the token is not valid yet: its claim "iat" is in the future')
  }
  return exp === undefined ? undefined : exp * 1000
}

function numericDate(claims: Claims, name: string): number | undefined {
  const value = claims[name]
  if (value === undefined) return undefined
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw new errors.InvalidToken(`the claim "${name}" must be a number of seconds`)
  }
  return value
}

function namesOf({ channel, channels }: Claims): string[] | undefined {
  if (channel !== undefined && typeof channel !== 'string') {
    throw new errors.MalformedClaims('"channel" must be a string')
  }
  const list = optionalTexts(channels, 'channels')
  return channel === undefined ? list : [channel, ...(list ?? [])]
}

function readSubs({ subs }: Claims): Readonly<Record<string, unknown>> {
  if (subs === undefined) return {}
  if (!isObject(subs)) {
    throw new errors.MalformedClaims('"subs" must be an object whose keys are channels')
  }
  for (const channel of Object.keys(subs)) {
    const problem = channelNameProblem(channel)
    if (problem !== undefined) throw new errors.MalformedClaims(`"subs": ${problem}`)
  }
  return subs
}

/** Reads a claim that identifies a party (RFC 7519, sections 4.1.1 and 4.1.2: StringOrURI). */
function optionalText(claims: Claims, name: string): string | undefined {
  const value = claims[name]
  if (value === undefined) return undefined
  if (typeof value !== 'string') {
    throw new errors.MalformedClaims(`"${name}" must be a string`)
  }
  // PostgreSQL could not store it.
  if (!isStorable(value)) {
    throw new errors.MalformedClaims(`"${name}" must not contain a NUL character or a lone surrogate`)
  }
  return value
}

/** Whether PostgreSQL's type text can store a string. */
function isStorable(text: string): boolean {
  return !text.includes('\0') && text.isWellFormed()
}

function optionalTexts(value: unknown, name: string): string[] | undefined {
  if (value === undefined) return undefined
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
    throw new errors.MalformedClaims(`"${name}" must be a list of strings`)
  }
  return value
}

function textOrTexts(value: unknown, name: string): string[] | undefined {
  return optionalTexts(typeof value === 'string' ? [value] : value, name)
}
