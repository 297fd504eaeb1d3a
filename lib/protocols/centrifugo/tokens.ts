import { requireMode, type Token, type TokenIdentity } from '../../auth/index.js'
import { errors } from '../../errors.js'
import type { Core } from '../index.js'
import { CommandError, DISCONNECT, DisconnectError, ERRORS } from './wire/protocol.js'
import type { Lifetime } from './wire/replies.js'

/** How long a token is valid after it has expired, so that the SDK can send a new one, in milliseconds. */
export const GRACE = 25_000

type Verify = Core['verifyToken']

/** What a subscription token allows in addition to reading. */
export interface Grant {
  write: boolean
  /** When it expires, in milliseconds since the epoch; undefined: never. */
  exp: number | undefined
  identity: TokenIdentity
}

/**
 * Verifies a connection token. It may lack a mode: the client then reads only what `subs` and subscription tokens allow.
 * @throws DisconnectError for an invalid token; TokenExpired, MalformedClaims, UnknownMode, KeysUnavailable
 */
export async function connectionToken(verify: Verify, text: string): Promise<Token> {
  if (text === '') {
    const cause = new errors.InvalidToken('the token is missing')
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'it is missing', cause)
  }
  let token: Token
  try {
    token = await verify(text)
  } catch (error) {
    if (error instanceof errors.InvalidToken) {
      throw new DisconnectError(DISCONNECT.INVALID_TOKEN, undefined, error)
    }
    if (error instanceof errors.TokenRevoked) {
      throw new DisconnectError(DISCONNECT.TOKEN_REVOKED, undefined, error)
    }
    throw error
  }
  // An invalid mode is reported now, not at the first channel.
  if (token.mode !== undefined) requireMode(token)
  return token
}

/**
 * Verifies a subscription token. It allows reading, and with `pub` in its claim `allow` also publishing
 * (https://centrifugal.dev/docs/pro/capabilities).
 *
 * A subscription token has the claim `channel` and no claim of a connection token. Otherwise a connection token that names
 * one channel, and may allow less than reading it, could be used as a subscription token.
 * @param of the subscription that it must belong to
 * @throws CommandError for an invalid token or a connection token; DisconnectError for a token of another channel, user
 *   or client; TokenExpired; MalformedClaims; KeysUnavailable
 */
export async function subscriptionToken(
  verify: Verify,
  text: string,
  of: { channel: string; subject: string | undefined; client: string }
): Promise<Grant> {
  let token: Token
  try {
    token = await verify(text)
  } catch (error) {
    if (error instanceof errors.InvalidToken) throw new CommandError(ERRORS.PERMISSION_DENIED)
    if (error instanceof errors.TokenRevoked) {
      throw new CommandError(ERRORS.PERMISSION_DENIED, 'permission denied: the token was revoked')
    }
    throw error
  }
  if (token.subscriptionProblem !== undefined) {
    throw new CommandError(
      ERRORS.PERMISSION_DENIED,
      `the token ${token.subscriptionProblem}; a subscription token has "channel", "sub", "exp" and "allow"`
    )
  }
  if (token.claims.channel !== of.channel) {
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'the subscription token is for another channel')
  }
  if ((token.subject ?? '') !== (of.subject ?? '')) {
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'the subscription token belongs to another user')
  }
  if (token.client !== undefined && token.client !== of.client) {
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'the subscription token is for another client')
  }
  const { id: tokenId, subject, issuedAt } = token
  return {
    write: token.allow.includes('pub'),
    exp: token.expiresAt,
    identity: { tokenId, subject, issuedAt }
  }
}

/** The remaining lifetime of a token, for a reply. At least 1 s, because the SDK would refresh at once otherwise. */
export function lifetime(exp: number | undefined): Lifetime {
  if (exp === undefined) return {}
  return { expires: true, ttl: Math.max(1, Math.ceil((exp - Date.now()) / 1000)) }
}
