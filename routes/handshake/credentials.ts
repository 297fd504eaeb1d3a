import type { IncomingHttpHeaders } from 'node:http'
import { parse as parseCookies } from 'cookie'
import type { FastifyRequest } from 'fastify'
import { errors } from '../../lib/errors.js'
import { channelsOfQuery, isToken, parseAddress } from './address.js'
import { bearerToken } from './bearer.js'

/** The plugin's subprotocol (RFC 6455, section 1.9), and the prefix of a subprotocol with which a browser passes a token. */
const SUBPROTOCOL = 'pgws'
const BEARER = 'bearer.'

/** The token of a handshake, and the channels that it requests. */
export interface Credentials {
  token: string
  /** Undefined: all channels that the token names. */
  channels: readonly string[] | undefined
}

/**
 * Reads the token of a handshake, and the channels that it requests. They are in the address `/:channel/:token` or
 * `/:token`. For the address `/`, the token is in the header `Authorization`, the subprotocol `bearer.<token>` or a cookie,
 * and the channels are in `?channel=a&channel=b`.
 * @param path the request's path below the prefix, with the query
 * @param cookieName the name of the cookie that may contain a token
 * @throws BadAddress (400), InvalidToken (401)
 */
export function readCredentials(
  request: FastifyRequest,
  path: string,
  cookieName: string | undefined
): Credentials {
  const { headers } = request.raw
  // Nearly all clients with the token in the address send neither header.
  const more = headers.authorization !== undefined || headers['sec-websocket-protocol'] !== undefined
  const root = isRoot(path)
  const token = root || more ? findToken(request, cookieName) : undefined
  if (!root) {
    const { channel, token } = parseAddress(path)
    return { token, channels: channel === undefined ? undefined : [channel] }
  }
  if (token === undefined) {
    throw new errors.InvalidToken(
      'the token is missing: send it in the address, in the header "Authorization: Bearer <token>", or as the subprotocol "bearer.<token>"'
    )
  }
  return { token, channels: channelsOfQuery(path) }
}

/**
 * Finds a token that is not in the address: in the header `Authorization`, the subprotocol `bearer.<token>` or a cookie.
 * @throws BadAddress (400) if `bearer.<token>` is the only subprotocol: the answer must not repeat it, and browsers fail a
 *   connection whose answer selects none of the subprotocols that they offered
 */
export function findToken(
  { raw: { headers } }: Pick<FastifyRequest, 'raw'>,
  cookieName: string | undefined
): string | undefined {
  const { header, protocol, cookie, protocols } = offeredTokens(headers, cookieName)
  if (protocol !== undefined && !protocols.includes(SUBPROTOCOL)) {
    throw new errors.BadAddress(`offer the subprotocol "${SUBPROTOCOL}" together with "${BEARER}<token>"`)
  }
  return header ?? protocol ?? cookie
}

/**
 * Whether a handshake has something that looks like a token in one of the places where tokens are accepted.
 * @param path the request's path below the prefix, with the query
 */
export function bringsToken(
  headers: IncomingHttpHeaders,
  path: string,
  cookieName: string | undefined
): boolean {
  if (isRoot(path)) {
    const { header, protocol, cookie, protocols } = offeredTokens(headers, cookieName)
    // Browsers send the cookie with each handshake. One with another subprotocol (vite-hmr) may be for another server.
    const other = headers['sec-websocket-protocol'] !== undefined && !protocols.includes(SUBPROTOCOL)
    return [header, protocol, other ? undefined : cookie].some(
      (token) => token !== undefined && isToken(token)
    )
  }
  try {
    return isToken(parseAddress(path).token)
  } catch {
    return false
  }
}

/**
 * The subprotocol that the answer to a handshake selects: `pgws`, or else the first one that contains no token.
 * @returns false if there is none
 */
export function selectProtocol(offered: Set<string>): string | false {
  if (offered.has(SUBPROTOCOL)) return SUBPROTOCOL
  return [...offered].find((protocol) => !isBearer(protocol)) ?? false
}

function offeredTokens(headers: IncomingHttpHeaders, cookieName: string | undefined) {
  const offered = headers['sec-websocket-protocol']
  const protocols = offered === undefined ? [] : offered.split(',').map((protocol) => protocol.trim())
  return {
    protocols,
    header: bearerToken({ headers }),
    protocol: protocols.find(isBearer)?.slice(BEARER.length),
    cookie: cookieName === undefined ? undefined : parseCookies(headers.cookie ?? '')[cookieName]
  }
}

function isBearer(protocol: string): boolean {
  return protocol.toLowerCase().startsWith(BEARER)
}

function isRoot(path: string): boolean {
  return /^\/?(?:$|[?#])/.test(path)
}
