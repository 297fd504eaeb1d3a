import { type Claims, checkTimes, subjectOf } from '../claims.js'
import { errors } from '../errors.js'
import { CommandError, DISCONNECT, DisconnectError, ERRORS } from './protocol.js'
import type { SdkServices } from './services.js'

/** For how long a token is honoured past its end, so that the SDK can bring a new one, in milliseconds. */
export const GRACE = 25_000

type Verify = SdkServices['verifyToken']

/** What a subscription's own token allows beside reading. */
export interface Grant {
  write: boolean
  /** When it ends, in milliseconds since the epoch; undefined: never. */
  exp: number | undefined
}

/**
 * The claims of a connection's token; its times are not checked.
 * @throws DisconnectError for one that is none of ours; KeysUnavailable
 */
export async function connectionToken(verify: Verify, token: string): Promise<Claims> {
  if (token === '') throw new DisconnectError(DISCONNECT.INVALID_TOKEN, 'it is missing')
  try {
    return await verify(token)
  } catch (error) {
    if (error instanceof errors.KeysUnavailable) throw error
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN)
  }
}

/**
 * What a subscription's own token allows.
 * @param of whose it must be
 * @throws CommandError for one that is none of ours; DisconnectError for another channel's, user's or client's;
 *   TokenExpired; KeysUnavailable
 */
export async function subscriptionToken(
  verify: Verify,
  token: string,
  of: { channel: string; subject: string | undefined; client: string }
): Promise<Grant> {
  let claims: Claims
  try {
    claims = await verify(token)
  } catch (error) {
    if (error instanceof errors.KeysUnavailable) throw error
    throw new CommandError(ERRORS.PERMISSION_DENIED)
  }
  if (claims.channel !== of.channel) {
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN, "the subscription's is for another channel")
  }
  if ((subjectOf(claims) ?? '') !== (of.subject ?? '')) {
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN, "the subscription's is of another user")
  }
  if (claims.client !== undefined && claims.client !== of.client) {
    throw new DisconnectError(DISCONNECT.INVALID_TOKEN, "the subscription's is for another client")
  }
  const exp = checkTimes(claims)
  return { write: claims.mode === 'w' || claims.mode === 'rw', exp }
}

/** When a token ends, in the words of a reply; at least 1 s, since the SDK asks again at once otherwise. */
export function lifetime(exp: number | undefined): { expires?: true; ttl?: number } {
  if (exp === undefined) return {}
  return { expires: true, ttl: Math.max(1, Math.ceil((exp - Date.now()) / 1000)) }
}
