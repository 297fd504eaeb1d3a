import { channelNameProblem } from '../../lib/channel-name.js'
import { errors } from '../../lib/errors.js'

/** The parts of a websocket address. */
export interface Address {
  /** The channel of `/:channel/:token`; undefined for `/:token`. */
  channel: string | undefined
  token: string
}

/** Replaces tokens in logs and answers. */
const MASK = '***'

/**
 * Matches what may be a JSON Web Token in a path. The header of a token begins with `{"`, which is `eyJ` in base64url. A
 * match is a token only if it contains a dot, which some clients write as %2e because proxies may treat it as the
 * beginning of a file extension. The dot is checked apart (see DOT): if this expression required it, matching would take
 * quadratic time in a long text with many `eyJ`.
 */
const TOKEN = /eyJ[\w-]*(?:(?:\.|%2[eE])[\w%.-]*)?/g
const DOT = /\.|%2[eE]/

/**
 * Reads `/:channel/:token` or `/:token`. Anything after the token is ignored.
 * @param url the request's path below the prefix, still percent-encoded, with or without a query
 * @throws BadAddress (400) for a malformed percent-encoding or an invalid channel name
 */
export function parseAddress(url: string): Address {
  const [first = '', second] = pathOf(url).replace(/^\//, '').split('/')
  if (second === undefined) return { channel: undefined, token: decode(first) }
  const channel = decode(first)
  checkChannel(channel)
  return { channel, token: decode(second) }
}

/**
 * Reads the channels of a query such as `?channel=a&channel=b`.
 * @returns undefined if it names none
 * @throws BadAddress (400) for an invalid channel name
 */
export function channelsOfQuery(url: string): string[] | undefined {
  const names = queryOf(url).getAll('channel')
  for (const name of names) checkChannel(name)
  return names.length === 0 ? undefined : names
}

type Parameters = Pick<URLSearchParams, 'get' | 'getAll' | 'keys'>

const NO_PARAMETERS: Parameters = new URLSearchParams()

/** The parameters after the `?` of a URL. Most addresses of channels have none, and share one object. */
export function queryOf(url: string): Parameters {
  const start = url.indexOf('?')
  return start === -1 ? NO_PARAMETERS : new URLSearchParams(url.slice(start))
}

/** Whether a path can be percent-decoded (RFC 3986, section 2.1; UTF-8). */
export function isDecodable(url: string): boolean {
  if (!url.includes('%')) return true
  try {
    decodeURIComponent(pathOf(url))
    return true
  } catch {
    return false
  }
}

/** Whether a text has the form of a JSON Web Token: a JWS in compact serialization (RFC 7515, section 3.1). */
export function isToken(text: string): boolean {
  return /^eyJ[\w-]*\.[\w-]*\.[\w-]*$/.test(text)
}

/** Whether a URL contains something that has the form of a JSON Web Token. */
export function holdsToken(url: string): boolean {
  return url.includes('eyJ') && maskTokens(url) !== url
}

/** Masks every JSON Web Token in a URL or another text. */
export function maskTokens(url: string): string {
  return url.replace(TOKEN, (text) => (DOT.test(text) ? MASK : text))
}

/**
 * The URL of a websocket request for logs. The token's segment is masked, even if it does not look like a token.
 * @param url as for parseAddress
 */
export function maskAddress(url: string): string {
  const [, first = '', ...rest] = pathOf(url).split('/')
  return rest.length === 0 ? `/${first && MASK}` : `/${maskTokens(first)}/${MASK}`
}

function checkChannel(channel: string): void {
  const problem = channelNameProblem(channel)
  if (problem !== undefined) throw new errors.BadAddress(problem)
}

/** A URL without its query. */
export function pathOf(url: string): string {
  const end = url.search(/[?#]/)
  return end === -1 ? url : url.slice(0, end)
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment)
  } catch {
    throw new errors.BadAddress('its percent-encoding cannot be decoded as UTF-8')
  }
}
