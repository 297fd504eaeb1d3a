import { channelNameProblem } from '../../lib/channel-name.js'
import { errors } from '../../lib/errors.js'

/** What a websocket address asks for. */
export interface Address {
  /** `/:channel/:token`: the channel; `/:token`: undefined. */
  channel: string | undefined
  token: string
}

/** What stands in a log or an answer where a token stood. */
const MASK = '***'

/**
 * What may be a JSON Web Token in a path: its header begins with `{"`, which is `eyJ` in base64url. It is one only
 * with a dot (which some write as %2e, lest it be taken for a file's extension); asked for here, the dot would be
 * looked for again from each `eyJ` of a long text.
 */
const TOKEN = /eyJ[\w-]*(?:(?:\.|%2[eE])[\w%.-]*)?/g
const DOT = /\.|%2[eE]/

/**
 * Reads `/:channel/:token` or `/:token`; what follows a token is ignored.
 * @param url the request's path below the prefix, still percent-encoded, with or without a query
 * @throws BadAddress (400) for a malformed percent-encoding, or what is no name of a channel
 */
export function parseAddress(url: string): Address {
  const [first = '', second] = pathOf(url).replace(/^\//, '').split('/')
  if (second === undefined) return { channel: undefined, token: decode(first) }
  const channel = decode(first)
  checkChannel(channel)
  return { channel, token: decode(second) }
}

/**
 * The channels of a query `?channel=a&channel=b`.
 * @returns undefined where it names none
 * @throws BadAddress (400) for what is no name of a channel
 */
export function channelsOfQuery(url: string): string[] | undefined {
  const names = queryOf(url).getAll('channel')
  for (const name of names) checkChannel(name)
  return names.length === 0 ? undefined : names
}

const NO_PARAMETERS: Pick<URLSearchParams, 'get' | 'getAll'> = new URLSearchParams()

/** The parameters after the `?` of a URL. Most addresses of channels have none. */
export function queryOf(url: string): Pick<URLSearchParams, 'get' | 'getAll'> {
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

/** Whether a text is a JSON Web Token by its looks: a JWS in its compact form (RFC 7515, section 3.1). */
export function isToken(text: string): boolean {
  return /^eyJ[\w-]*\.[\w-]*\.[\w-]*$/.test(text)
}

/** Whether a URL's path holds what looks like a JSON Web Token. */
export function holdsToken(url: string): boolean {
  return url.includes('eyJ') && maskTokens(url) !== url
}

/** A URL with every token in it masked: JSON Web Tokens anywhere. */
export function maskTokens(url: string): string {
  return url.replace(TOKEN, (text) => (DOT.test(text) ? MASK : text))
}

/**
 * The URL of a websocket request as it may be logged: the token's place is masked, whatever stands there.
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
