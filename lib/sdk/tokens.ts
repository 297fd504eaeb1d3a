import { type Claims, checkTimes, subjectOf } from '../claims.js'
import { errors } from '../errors.js'
import { CommandError, DISCONNECT, DisconnectError, ERRORS } from './protocol.js'
import type { SdkServices } from './services.js'

/** For how long a token is honoured past its end, so that the SDK can bring a new one, in milliseconds. */
export const GRACE = 25_000

type Verify = SdkServices['verifyToken']

/** Claims of a connection's token, which allow more or less than reading one channel. */
const OF_CONNECTIONS = ['mode', 'channels', 'channel_patterns', 'subs']

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
 * What a subscription's own token allows: to read, and with `pub` in its claim `allow` to publish, too
 * (https://centrifugal.dev/docs/pro/capabilities).
 *
 * It says that it is one by its claim `channel` and no claim of a connection's token: those may name one channel, too,
 * and allow less than reading it.
 * @param of whose it must be
 * @throws CommandError for one that is none of ours, or a connection's; DisconnectError for another channel's, user's or client's;
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
  const foreign = OF_CONNECTIONS.find((name) => claims[name] !== undefined)
  if (foreign !== undefined || typeof claims.channel !== 'string') {
    const wrong = foreign === undefined ? 'has no claim "channel"' : `is a connection's: it has "${foreign}"`
    throw new CommandError(
      ERRORS.PERMISSION_DENIED,
      `the token ${wrong}; a subscription's has "channel", "sub", "exp", "allow"`
    )
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
  const { allow = [] } = claims
  if (!Array.isArray(allow)) throw new errors.MalformedClaims('"allow" must be a list of texts')
  return { write: allow.includes('pub'), exp }
}

/** When a token ends, in the words of a reply; at least 1 s, since the SDK asks again at once otherwise. */
export function lifetime(exp: number | undefined): { expires?: true; ttl?: number } {
  if (exp === undefined) return {}
  return { expires: true, ttl: Math.max(1, Math.ceil((exp - Date.now()) / 1000)) }
}
