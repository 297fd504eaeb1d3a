import type { IncomingHttpHeaders } from 'node:http'
import { parse as parseCookies } from 'cookie'
import type { FastifyRequest } from 'fastify'
import { errors } from '../../lib/errors.js'
import { channelsOfQuery, isToken, parseAddress } from './address.js'
import { bearerToken } from './bearer.js'

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
  const { headers } = request.raw
  // Nearly all clients that bring their token in the address bring nothing else.
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
 * The token of a handshake that does not stand in the address: of the header `Authorization`, the subprotocol
 * `bearer.<token>` or a cookie.
 * @throws BadAddress (400) where the subprotocol stands alone: the answer must not repeat it, and browsers close what
 *   selects none of those that they offer
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
 * Whether a handshake brings what looks like a token to where we look for one.
 * @param path the request's path below our prefix, with the query
 */
export function bringsToken(
  headers: IncomingHttpHeaders,
  path: string,
  cookieName: string | undefined
): boolean {
  if (isRoot(path)) {
    const { header, protocol, cookie, protocols } = offeredTokens(headers, cookieName)
    // Browsers send a cookie with each handshake; who speaks another protocol (vite-hmr) may mean another server.
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
 * The subprotocol that the answer to a handshake selects: ours, or the first one that holds no token.
 * @returns false where there is none
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
