import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import { type Access, authorize } from '../../lib/auth/index.js'
import type { JoinOptions, Transport, TransportName } from '../../lib/clients/index.js'
import { isAllowedOrigin } from '../../lib/config/index.js'
import { errors } from '../../lib/errors.js'
import type { Gateway } from '../../lib/gateway.js'
import { nameAndKnown } from '../known.js'
import { messageCount } from '../message-count.js'
import { isToken, maskAddress, maskTokens, queryOf } from './address.js'
import { ADDRESSES, type ChannelRoutesOptions } from './channel-addresses.js'
import { readCredentials } from './credentials.js'
import { describeRequestAs } from './request-log.js'
import { malformed } from './router-constraint.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** What the token of a websocket request allows; set before the upgrade. */
    pgwsAccess: Access | null
  }
}

/** The parameters of the addresses of channels. */
const PARAMETERS = ['channel', 'since', 'last', 'binary', 'rejections', 'presence']

/** The admission of websockets and event streams, before they are accepted. */
export function handshake(
  fastify: FastifyInstance,
  { gateway, verifyToken, options }: Omit<ChannelRoutesOptions, 'paths'>
) {
  const { prefix } = fastify
  const pathBelowPrefix = (request: FastifyRequest) => request.raw.url!.slice(prefix.length)
  return {
    describeRequest: (request: FastifyRequest) =>
      describeRequestAs(request, prefix + maskAddress(pathBelowPrefix(request))),

    /** Sets `pgwsAccess`, or throws. */
    async admit(request: FastifyRequest, transport: Transport): Promise<void> {
      if (gateway.closing) throw new errors.ShuttingDown()
      if (malformed.has(request.raw))
        throw new errors.BadAddress('its percent-encoding cannot be decoded as UTF-8')
      if (!isAllowedOrigin(request.headers.origin, options.allowedOrigins))
        throw new errors.OriginNotAllowed()
      const credentials = readCredentials(request, pathBelowPrefix(request), options.tokenCookie)
      checkAddress(request, credentials.token)
      const token = await verifyToken(credentials.token)
      const access = authorize(token, credentials.channels, options.maxChannelsPerConnection)
      const { since, last, binary, presence } = joinOptionsOf(request)
      if (since !== undefined || last !== undefined || binary) gateway.requireDurable()
      if (presence) gateway.requirePresence(access.channels)
      const stream = request.headers.upgrade === undefined
      if (stream && !access.read) throw new errors.ReadNotAllowed()
      const mode = stream || !access.write ? 'r' : access.read ? 'rw' : 'w'
      access.caller = await gateway.authorize(token, access.channels, mode)
      // One that only writes is a member, too.
      const { channels } = access
      const wanted = access.read ? channels : channels.filter((channel) => gateway.hasPresence(channel))
      await gateway.admit(transport, request.ip, wanted)
      request.pgwsAccess = access
      tellUnknown(request, access, stream ? 'event-stream' : 'websocket')
    },

    joinOptionsOf
  }

  /** An address for HTTP requests (`/health`) may be meant, which would be a token here. */
  function checkAddress(request: FastifyRequest, token: string): void {
    if (isToken(token)) return
    const { url = '' } = request.routeOptions
    const path = url.slice(prefix.length)
    if (path === '' || ADDRESSES.includes(path)) return
    throw new errors.InvalidToken(
      `the token is not a JSON Web Token (RFC 7519). "${url}" is an address for HTTP requests; websockets and event streams connect to /:channel/:token, /:token or /`
    )
  }

  /** As with postgres-websockets, any query is accepted. A misspelled parameter (`?sinec=`) would be hard to find. */
  function tellUnknown(
    { raw, ip }: FastifyRequest,
    { channels, subject }: Access,
    transport: TransportName
  ): void {
    for (const name of queryOf(raw.url!).keys()) {
      if (PARAMETERS.includes(name)) continue
      const text = `a client has connected with a parameter that nothing reads: ${nameAndKnown(maskTokens(name), PARAMETERS)}`
      gateway.events.add('unknown-parameter', { text, address: ip, subject, channels, transport })
    }
  }

  function joinOptionsOf(request: FastifyRequest): JoinOptions {
    const query = queryOf(pathBelowPrefix(request))
    // Node.js joins all headers that are repeated but "set-cookie".
    const lastEventId = request.headers['last-event-id'] as string | undefined
    const last = query.get('last')
    if (last !== null && query.get('since') !== null) {
      throw new errors.BadQuery('"since" and "last" do not go together: name one of them')
    }
    const count = last === null ? undefined : messageCount(last, 'last')
    const since = (lastEventId || query.get('since')) ?? undefined
    return {
      since,
      // An EventSource that comes back says what it has; its address stays the same.
      last: since === undefined ? count : undefined,
      binary: query.get('binary') === 'true',
      rejections: query.get('rejections') === 'true',
      presence: query.get('presence') === 'true'
    }
  }
}

/** Counts and logs a handshake that was refused, and adds it to the events. */
export function refused(
  gateway: Gateway,
  transport: TransportName,
  describeRequest: (request: FastifyRequest) => object
): NonNullable<RouteOptions['onError']> {
  return (request, _reply, error, done) => {
    const message = maskTokens(error.message)
    gateway.refused({
      address: request.ip,
      transport,
      error:
        message === error.message
          ? error
          : Object.assign(new Error(message), { code: error.code, statusCode: error.statusCode }),
      // Not "req", which is for requests: a host's serializer for it reads them.
      request: { request: describeRequest(request) }
    })
    done()
  }
}
