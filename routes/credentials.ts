import { parse as parseCookies } from 'cookie'
import type { FastifyRequest } from 'fastify'
import { channelsOfQuery, parseAddress } from '../lib/address.js'
import { errors } from '../lib/errors.js'
import { bearerToken } from './authorization.js'

/** The subprotocol (RFC 6455, section 1.9) that we speak, and how a browser hands a token over beside it. */
const SUBPROTOCOL = 'pgws'
const BEARER = 'bearer.'

/** What a handshake asks for. */
export interface Credentials {
  token: string
  /** Undefined: all channels that the token names. */
  channels: readonly string[] | undefined
}

/**
 * Reads the token of a handshake, and the channels that it asks for: from the address `/:channel/:token` or
 * `/:token`; or, for the address `/`, from the header `Authorization`, the subprotocol `bearer.<token>` or a
 * cookie, and from `?channel=a&channel=b`.
 * @param path the request's path below our prefix, with the query
 * @param cookieName the cookie that may hold a token
 * @throws BadAddress (400), InvalidToken (401)
 */
export function readCredentials(
  request: FastifyRequest,
  path: string,
  cookieName: string | undefined
): Credentials {
  if (!/^\/?(?:$|[?#])/.test(path)) {
    const { channel, token } = parseAddress(path)
    return { token, channels: channel === undefined ? undefined : [channel] }
  }
  const token = findToken(request, cookieName)
  if (token === undefined) {
    throw new errors.InvalidToken(
      'the token is missing: it goes into the address, into the header "Authorization: Bearer <token>", or into the subprotocol "bearer.<token>"'
    )
  }
  return { token, channels: channelsOfQuery(path) }
}

/**
 * The token of a handshake that does not stand in the address: of the header `Authorization`, the subprotocol
 * `bearer.<token>` or a cookie.
 * @throws BadAddress (400) where the subprotocol stands alone
 */
export function findToken(request: FastifyRequest, cookieName: string | undefined): string | undefined {
  const { headers } = request.raw
  const offered = (headers['sec-websocket-protocol'] ?? '').split(',').map((protocol) => protocol.trim())
  // The answer must not repeat the token, so none but ours is left to select.
  if (offered.includes(SUBPROTOCOL)) headers['sec-websocket-protocol'] = SUBPROTOCOL
  const protocol = offered.find((candidate) => candidate.startsWith(BEARER))
  if (protocol !== undefined && !offered.includes(SUBPROTOCOL)) {
    throw new errors.BadAddress(`the subprotocol "${SUBPROTOCOL}" must be offered beside "${BEARER}<token>"`)
  }
  const cookie = cookieName === undefined ? undefined : parseCookies(headers.cookie ?? '')[cookieName]
  return bearerToken(request) ?? protocol?.slice(BEARER.length) ?? cookie
}
