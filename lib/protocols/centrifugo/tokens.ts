import { requireMode, type Token } from '../../auth/index.js'
import { errors } from '../../errors.js'
import type { Core } from '../index.js'
import { CommandError, DISCONNECT, DisconnectError, ERRORS } from './wire/protocol.js'

/** For how long a token is honoured past its end, so that the SDK can bring a new one, in milliseconds. */
export const GRACE = 25_000

type Verify = Core['verifyToken']

/** What a subscription's own token allows beside reading. */
export interface Grant {
  write: boolean
  /** When it ends, in milliseconds since the epoch; undefined: never. */
  exp: number | undefined
}

/**
 * A connection's token. It may be without a mode: then it reads by `subs`, and by tokens of its subscriptions.
 * @throws DisconnectError for one that is none of ours; TokenExpired, MalformedClaims, UnknownMode, KeysUnavailable
 */
export async function connectionToken(verify: Verify, text: string): Promise<Token> {
  if (text === '') throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'it is missing')
  let token: Token
  try {
    token = await verify(text)
  } catch (error) {
    if (error instanceof errors.InvalidToken) throw new DisconnectError(DISCONNECT.INVALID_TOKEN)
    throw error
  }
  // Whatever the mode says wrongly is said now, not at the first channel.
  if (token.mode !== undefined) requireMode(token)
  return token
}

/**
 * What a subscription's own token allows: to read, and with `pub` in its claim `allow` to publish, too
 * (https://centrifugal.dev/docs/pro/capabilities).
 *
 * It says that it is one by its claim `channel` and no claim of a connection's token: those may name one channel, too,
 * and allow less than reading it.
 * @param of whose it must be
 * @throws CommandError for one that is none of ours, or a connection's; DisconnectError for another channel's, user's or client's;
 *   TokenExpired; MalformedClaims; KeysUnavailable
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
    throw error
  }
  if (token.notSubscription !== undefined) {
    throw new CommandError(
      ERRORS.PERMISSION_DENIED,
      `the token ${token.notSubscription}; a subscription token has "channel", "sub", "exp" and "allow"`
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
  return { write: token.allow.includes('pub'), exp: token.expiresAt }
}

/** When a token ends, in the words of a reply; at least 1 s, because the SDK asks again at once otherwise. */
export function lifetime(exp: number | undefined): { expires?: true; ttl?: number } {
  if (exp === undefined) return {}
  return { expires: true, ttl: Math.max(1, Math.ceil((exp - Date.now()) / 1000)) }
}
