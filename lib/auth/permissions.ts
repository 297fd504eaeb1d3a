import { matchesPattern } from '../channel-pattern.js'
import { errors } from '../errors.js'
import type { Claims, Mode, NamedChannels, Token } from './claims.js'
import type { Caller } from './owner-functions.js'

/** What a token allows in the requested channels. */
export interface Access {
  /** The channels to join, without duplicates. */
  channels: string[]
  read: boolean
  write: boolean
  /** When the token expires, in milliseconds since the epoch; undefined: never. */
  expiresAt: number | undefined
  /** The token's claim `sub`. */
  subject?: string | undefined
  /** The token's claim `jti`. */
  tokenId?: string | undefined
  /** The token's claim `iat`, in milliseconds since the epoch. */
  issuedAt?: number | undefined
  claims: Claims
  /** The identity with which SQL functions are called for it; undefined if there are no functions. */
  caller?: Caller | undefined
}

const NOTHING: Mode = { read: false, write: false }

/**
 * Checks what a token allows.
 * @param requested the requested channels; undefined for all channels that the token names
 * @param maxChannels how many channels one connection may join
 * @throws MissingMode, UnknownMode, NoAllowedChannels, TooManyChannels (403)
 */
export function authorize(
  token: Token,
  requested: readonly string[] | undefined,
  maxChannels = Number.POSITIVE_INFINITY
): Access {
  const { read, write } = requireMode(token)
  const { channels: named, claims, expiresAt, subject, id: tokenId, issuedAt } = token
  if (requested === undefined && (named === undefined || named.names.size === 0)) {
    throw new errors.NoAllowedChannels('the token names no channel: name one in the address or the token')
  }
  const channels = [...new Set(requested ?? named!.names)]
  if (!channels.every((channel) => allowsChannel(named, channel))) {
    throw new errors.NoAllowedChannels('the token does not allow the channel of the address')
  }
  if (channels.length > maxChannels) throw new errors.TooManyChannels(maxChannels)
  return { channels, read, write, expiresAt, subject, tokenId, issuedAt, claims }
}

/**
 * Checks that a token may write to all of some channels.
 * @throws MissingMode, UnknownMode, WriteNotAllowed, NoAllowedChannels (403)
 */
export function authorizeWrite(token: Token, channels: Iterable<string>): void {
  if (!requireMode(token).write) throw new errors.WriteNotAllowed()
  for (const channel of channels) {
    if (!allowsChannel(token.channels, channel)) {
      throw new errors.NoAllowedChannels('the token does not allow every channel of the request')
    }
  }
}

/**
 * What a token allows in one channel. A token without a mode allows nothing.
 * @throws UnknownMode (403)
 */
export function permissionsIn(token: Token, channel: string): Mode {
  if (token.mode === undefined) return NOTHING
  const mode = requireMode(token)
  return allowsChannel(token.channels, channel) ? mode : NOTHING
}

/**
 * Checks that a token belongs to an administrator.
 * @throws AdminOnly (403)
 */
export function authorizeAdmin({ admin, claimNames }: Token): void {
  if (!admin) throw new errors.AdminOnly(claimNames.admin)
}

/** @throws MissingMode, UnknownMode (403) */
export function requireMode({ mode, claimNames }: Token): Mode {
  if (mode === undefined) throw new errors.MissingMode(claimNames.mode)
  if (mode === 'unknown') throw new errors.UnknownMode(claimNames.mode)
  return mode
}

function allowsChannel(named: NamedChannels | undefined, channel: string): boolean {
  if (named === undefined || named.names.has(channel)) return true
  return named.patterns.some((pattern) => matchesPattern(pattern, channel))
}
