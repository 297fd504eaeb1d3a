import { channelNameProblem } from './channel-name.js'
import { matchesPattern } from './channel-pattern.js'
import { errors } from './errors.js'
import type { Caller } from './sql-functions.js'

/** The claims of a verified token: a JSON object. */
export type Claims = Record<string, unknown>

/** What a token allows on the channels that were asked for. */
export interface Access {
  /** The channels to join, without duplicates. */
  channels: string[]
  read: boolean
  write: boolean
  /** When the token ends, in milliseconds since the epoch; undefined: never. */
  expiresAt: number | undefined
  /** The token's claim `sub`. */
  subject?: string | undefined
  claims: Claims
  /** As whom functions of the database's owner are called for it; undefined: none is. */
  caller?: Caller | undefined
}

/** How far the clocks of the token's issuer and of this server may differ, in seconds. */
const CLOCK_TOLERANCE = 30

/**
 * Checks a token's times (RFC 7519, sections 4.1.4 to 4.1.6): `exp` has not passed, `nbf` and `iat` are not
 * in the future by more than 30 s.
 * @param claims the claims of a token whose signature holds
 * @param now milliseconds since the epoch
 * @returns when the token expires, in milliseconds since the epoch, or undefined
 * @throws TokenExpired, InvalidToken (401)
 */
export function checkTimes(claims: Claims, now: number = Date.now()): number | undefined {
  const exp = numericDate(claims, 'exp')
  const nbf = numericDate(claims, 'nbf')
  const iat = numericDate(claims, 'iat')
  if (exp !== undefined && exp * 1000 <= now) throw new errors.TokenExpired()
  const latest = now / 1000 + CLOCK_TOLERANCE
  if (nbf !== undefined && nbf > latest) throw new errors.InvalidToken('the token is not valid yet ("nbf")')
  if (iat !== undefined && iat > latest) {
    throw new errors.InvalidToken('the token was issued in the future ("iat")')
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

/** What a token must have beside a signature. */
export interface TokenRules {
  /** What `aud` (RFC 7519, section 4.1.3) must hold. */
  readonly jwtAudience?: string | undefined
  /** What `iss` (section 4.1.1) must be. */
  readonly jwtIssuer?: string | undefined
}

/**
 * @throws InvalidToken (401)
 */
export function checkParties({ aud, iss }: Claims, { jwtAudience, jwtIssuer }: TokenRules): void {
  if (jwtAudience !== undefined && ![aud].flat().includes(jwtAudience)) {
    throw new errors.InvalidToken('the token is for another audience ("aud")')
  }
  if (jwtIssuer !== undefined && iss !== jwtIssuer) {
    throw new errors.InvalidToken('the token comes from another issuer ("iss")')
  }
}

/** How deep claims may be nested. They are written again with each message, which JSON.stringify does by recursion. */
const MAX_DEPTH = 100

/** @throws MalformedClaims (403) for claims that are nested too deep */
export function checkDepth(claims: Claims): void {
  if (isDeeper(claims, MAX_DEPTH)) {
    throw new errors.MalformedClaims(`they are nested deeper than ${MAX_DEPTH} levels`)
  }
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((member) => isDeeper(member, levels - 1))
}

/**
 * What a token allows.
 * @param claims verified claims
 * @param requested the channels that were asked for, or undefined for all channels that the token names
 * @param maxChannels how many channels one socket may join
 * @throws TokenExpired, InvalidToken (401); MissingMode, UnknownMode, MalformedClaims, NoAllowedChannels,
 *   TooManyChannels (403)
 */
export function authorize(
  claims: Claims,
  requested: readonly string[] | undefined,
  maxChannels = Number.POSITIVE_INFINITY
): Access {
  const expiresAt = checkTimes(claims)
  const { read, write } = readMode(claims)
  const named = namedChannels(claims)
  if (requested === undefined && (named === undefined || named.names.size === 0)) {
    throw new errors.NoAllowedChannels('the token names none; name one in the address, or in the token')
  }
  const channels = [...new Set(requested ?? named!.names)]
  if (!channels.every((channel) => allowsChannel(named, channel))) {
    throw new errors.NoAllowedChannels('the token names others than the one of the address')
  }
  if (channels.length > maxChannels) throw new errors.TooManyChannels(maxChannels)
  return { channels, read, write, expiresAt, subject: subjectOf(claims), claims }
}

/** The claim `sub` (RFC 7519, section 4.1.2); undefined where it is none, or no text. */
export function subjectOf({ sub }: Claims): string | undefined {
  return typeof sub === 'string' ? sub : undefined
}

/**
 * Checks that a token may write each of some channels.
 * @throws as authorize does; WriteNotAllowed (403)
 */
export function authorizeWrite(claims: Claims, channels: Iterable<string>): void {
  checkTimes(claims)
  const { write } = readMode(claims)
  if (!write) throw new errors.WriteNotAllowed()
  const named = namedChannels(claims)
  for (const channel of channels) {
    if (!allowsChannel(named, channel)) {
      throw new errors.NoAllowedChannels('the token does not name every channel of the request')
    }
  }
}

/**
 * What a token allows in one channel, where a token without `mode` allows nothing.
 * @throws UnknownMode, MalformedClaims (403)
 */
export function permissionsIn(claims: Claims, channel: string): { read: boolean; write: boolean } {
  if (claims.mode === undefined) return { read: false, write: false }
  const mode = readMode(claims)
  return allowsChannel(namedChannels(claims), channel) ? mode : { read: false, write: false }
}

/**
 * Checks that a token carries `"admin": true`.
 * @throws TokenExpired, InvalidToken (401), AdminOnly (403)
 */
export function authorizeAdmin(claims: Claims): void {
  checkTimes(claims)
  if (claims.admin !== true) throw new errors.AdminOnly()
}

function readMode(claims: Claims): { read: boolean; write: boolean } {
  switch (claims.mode) {
    case undefined:
      throw new errors.MissingMode()
    case 'r':
      return { read: true, write: false }
    case 'w':
      return { read: false, write: true }
    case 'rw':
      return { read: true, write: true }
    default:
      throw new errors.UnknownMode()
  }
}

interface NamedChannels {
  names: ReadonlySet<string>
  patterns: readonly string[]
}

/** What was read of tokens: an open connection's is asked for each message. */
const known = new WeakMap<Claims, NamedChannels>()

/** The channels that a token names, `channel` first; undefined when it names none at all and so allows any. */
function namedChannels(claims: Claims): NamedChannels | undefined {
  const before = known.get(claims)
  if (before !== undefined) return before
  const { channel, channels, channel_patterns } = claims
  if (channel === undefined && channels === undefined && channel_patterns === undefined) return undefined
  if (channel !== undefined && typeof channel !== 'string') {
    throw new errors.MalformedClaims('"channel" must be a string')
  }
  if (channels !== undefined && !isStringList(channels)) {
    throw new errors.MalformedClaims('"channels" must be a list of strings')
  }
  if (channel_patterns !== undefined && !isStringList(channel_patterns)) {
    throw new errors.MalformedClaims('"channel_patterns" must be a list of strings')
  }
  const names = new Set([...(channel === undefined ? [] : [channel]), ...(channels ?? [])])
  for (const name of names) {
    const problem = channelNameProblem(name)
    if (problem !== undefined) throw new errors.MalformedClaims(problem)
  }
  const named = { names, patterns: channel_patterns ?? [] }
  known.set(claims, named)
  return named
}

function isStringList(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string')
}

function allowsChannel(named: NamedChannels | undefined, channel: string): boolean {
  if (named === undefined || named.names.has(channel)) return true
  return named.patterns.some((pattern) => matchesPattern(pattern, channel))
}
