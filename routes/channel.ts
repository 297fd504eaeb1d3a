import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import { holdsToken, isDecodable, maskAddress, maskTokens, pathOf, queryOf } from '../lib/address.js'
import { type Access, authorize } from '../lib/auth/index.js'
import type { Bridge } from '../lib/bridge.js'
import type { Transport, Wishes } from '../lib/clients/index.js'
import { isAllowedOrigin, type ResolvedOptions } from '../lib/config/index.js'
import { errors } from '../lib/errors.js'
import { defineBearer } from '../plugins/documentation.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { upgradeOf } from '../plugins/upgrades.js'
import type { WebSockets } from '../plugins/websocket.js'
import { readCredentials } from './credentials.js'
import { openStream, requireTurn } from './stream.js'
import { webSocketRoute } from './websocket-route.js'

/** The name of our find-my-way constraint. */
export const CONSTRAINT = 'pgws'

/** Its values. */
type Kind = 'upgrade' | 'events' | 'token' | 'preflight' | 'preflight-shared'

/** The part of a request that a constraint sees. */
interface ConstrainedRequest {
  method?: string
  url?: string
  headers: Record<string, string | string[] | undefined> & {
    upgrade?: string | undefined
    accept?: string | undefined
  }
}

declare module 'fastify' {
  interface FastifyRequest {
    /** What the token of a websocket request allows; set before the upgrade. */
    pgwsAccess: Access | null
  }
}

export interface ChannelRoutesOptions {
  bridge: Bridge
  verifyToken: VerifyToken
  options: Pick<ResolvedOptions, 'allowedOrigins' | 'tokenCookie' | 'maxChannelsPerConnection'>
  /** The paths of our own HTTP routes, below the prefix. */
  paths: Iterable<string>
}

/**
 * The websocket routes `/:channel/:token`, `/:token` and `/`.
 *
 * They are told from a host's routes of the same shape (`/:slug`) by a constraint on the `Upgrade` header. Our
 * own HTTP addresses get a websocket twin each, so that a channel may be named like them. Parameters are read
 * from the URL itself, since a router's parameter may not be longer than the host's `maxParamLength`; what is
 * longer falls through to the wildcard.
 */
export function channelRoutes(
  fastify: FastifyInstance,
  { bridge, verifyToken, options, paths, webSockets }: ChannelRoutesOptions & { webSockets: WebSockets }
): void {
  const { admit, describeRequest, wishesOf } = handshake(fastify, { bridge, verifyToken, options })
  for (const url of new Set([...ADDRESSES, ...paths])) {
    webSocketRoute(fastify, {
      url,
      bridge,
      webSockets,
      describeRequest,
      admit: (request) => admit(request, upgradeOf(request.raw)!.socket),
      connect: (webSocket, request) =>
        bridge.connect(webSocket, request.pgwsAccess!, request.ip, wishesOf(request))
    })
  }
}

/**
 * Server-sent events on the same addresses, for `GET` with `Accept: text/event-stream`
 * (https://html.spec.whatwg.org/multipage/server-sent-events.html).
 */
export function eventStreamRoutes(
  fastify: FastifyInstance,
  { bridge, verifyToken, options, paths }: ChannelRoutesOptions
): void {
  fastify.decorateRequest('pgwsAccess', null)
  const { admit, describeRequest, wishesOf } = handshake(fastify, { bridge, verifyToken, options })
  const log = { error: fastify.log.error.bind(fastify.log), describeRequest }
  const route: Omit<RouteOptions, 'url'> = {
    method: 'GET',
    exposeHeadRoute: false,
    constraints: { [CONSTRAINT]: 'events' },
    schema: { hide: true } as object,
    logLevel: 'warn',
    logSerializers: { req: describeRequest },
    onError: refused(fastify, bridge, describeRequest),
    async preValidation(request, reply) {
      requireTurn(reply)
      await admit(request, reply.raw)
    },
    handler(request, reply) {
      openStream(reply, 'text/event-stream; charset=utf-8', log, (response) => {
        bridge.stream(response, request.pgwsAccess!, request.ip, wishesOf(request))
      })
    }
  }
  for (const url of new Set([...ADDRESSES, ...paths])) fastify.route({ ...route, url } as RouteOptions)
}

const ADDRESSES = ['/', '/:token', '/:channel/:token', '/*']

/** What sockets and event streams have in common before they are accepted. */
function handshake(
  fastify: FastifyInstance,
  { bridge, verifyToken, options }: Omit<ChannelRoutesOptions, 'paths'>
) {
  const { prefix } = fastify
  const pathBelowPrefix = (request: FastifyRequest) => request.raw.url!.slice(prefix.length)
  return {
    describeRequest: (request: FastifyRequest) =>
      describe(request, prefix + maskAddress(pathBelowPrefix(request))),

    /** Sets `pgwsAccess`, or throws. */
    async admit(request: FastifyRequest, transport: Transport): Promise<void> {
      if (bridge.closing) throw new errors.ShuttingDown()
      if (malformed.has(request.raw))
        throw new errors.BadAddress('its percent-encoding cannot be decoded as UTF-8')
      if (!isAllowedOrigin(request.headers.origin, options.allowedOrigins))
        throw new errors.OriginNotAllowed()
      const credentials = readCredentials(request, pathBelowPrefix(request), options.tokenCookie)
      const token = await verifyToken(credentials.token)
      const access = authorize(token, credentials.channels, options.maxChannelsPerConnection)
      const { since, binary, presence } = wishesOf(request)
      if (since !== undefined || binary) bridge.requireDurable()
      if (presence) bridge.requirePresence(access.channels)
      const stream = request.headers.upgrade === undefined
      if (stream && !access.read) throw new errors.ReadNotAllowed()
      const mode = stream || !access.write ? 'r' : access.read ? 'rw' : 'w'
      access.caller = await bridge.authorize(token, access.channels, mode)
      await bridge.admit(transport, request.ip, access.read ? access.channels : [])
      request.pgwsAccess = access
    },

    wishesOf
  }

  function wishesOf(request: FastifyRequest): Wishes {
    const query = queryOf(pathBelowPrefix(request))
    const lastEventId = request.headers['last-event-id'] as string | undefined
    return {
      since: (lastEventId || query.get('since')) ?? undefined,
      binary: query.get('binary') === 'true',
      rejections: query.get('rejections') === 'true',
      presence: query.get('presence') === 'true'
    }
  }
}

/** Counts and logs a handshake that was refused. */
export function refused(
  fastify: FastifyInstance,
  bridge: Bridge,
  describeRequest: (request: FastifyRequest) => object
): NonNullable<RouteOptions['onError']> {
  return (request, _reply, error, done) => {
    bridge.metrics.refusals.inc({ reason: error.code ?? 'unknown' })
    fastify.log.info({ req: describeRequest(request), code: error.code }, `socket refused: ${error.message}`)
    done()
  }
}

/**
 * Answers plain HTTP requests to our websocket addresses, so that neither a host's log nor its 404 repeats the token.
 * A request whose path holds a JSON Web Token comes here only where the host has no route for it.
 */
export function plainHttpRoute(fastify: FastifyInstance): void {
  const { methods, prefixes } = hostOf(fastify)
  prefixes.add(fastify.prefix)
  fastify.route({
    method: methods,
    url: '/*',
    exposeHeadRoute: true,
    constraints: { [CONSTRAINT]: 'token' },
    schema: { hide: true } as object,
    // The first of our routes that a document sees.
    config: { swaggerTransform: defineBearer },
    logSerializers: maskingSerializers,
    async handler() {
      throw new errors.NotFound()
    }
  })
}

/**
 * Routes for preflight requests (registerCors answers them): at our HTTP addresses; below a prefix at all; without one
 * also at the root and what holds a token, unless the host answers for all addresses at once, before or after us. Others
 * who answer `OPTIONS` at the same addresses keep what is no preflight request.
 * @param paths the paths of our HTTP routes, below the prefix
 */
export function preflightRoutes(fastify: FastifyInstance, paths: Iterable<string>): void {
  const host = hostOf(fastify)
  const own = isRootPrefix(fastify.prefix) ? [] : ['/', '/*']
  const routes: [kind: Kind, urls: Iterable<string>][] = [
    ['preflight', new Set([...paths, ...own])],
    ['preflight-shared', new Set([...paths, '/', '/*'])]
  ]
  for (const [kind, urls] of routes) {
    for (const url of urls) {
      fastify.route({
        method: 'OPTIONS',
        url,
        constraints: { [CONSTRAINT]: kind },
        schema: { hide: true } as object,
        logSerializers: maskingSerializers,
        async handler() {
          throw new errors.OriginNotAllowed()
        }
      })
    }
  }
  fastify.addHook('onReady', async () => {
    host.answersPreflights = ['*', '/*'].some((url) => fastify.hasRoute({ method: 'OPTIONS', url }))
  })
}

function isRootPrefix(prefix: string): boolean {
  return prefix === '' || prefix === '/'
}

interface Host {
  /** The prefixes that we are registered with. */
  prefixes: Set<string>
  /** Whether it answers `OPTIONS` for all addresses at once, as @fastify/cors does. */
  answersPreflights: boolean
  /**
   * The methods with a route for what holds a token. Not `OPTIONS`, which a host may answer for all addresses at once
   * (CORS), and not what its router does not know: there the token is masked before anybody sees it.
   */
  methods: string[]
}

const hosts = new WeakMap<object, Host>()

function hostOf({ server, supportedMethods }: FastifyInstance): Host {
  // HEAD has the route of GET.
  const methods = supportedMethods.filter((method) => method !== 'OPTIONS' && method !== 'HEAD')
  const host = hosts.get(server) ?? { prefixes: new Set(), answersPreflights: false, methods }
  hosts.set(server, host)
  return host
}

const malformed = new WeakSet<object>()

/**
 * Makes the constraint known to the router, once for each host. It is the one place that sees a request before
 * the router decodes its path, and the router's answer to a path that cannot be decoded repeats it: so such a
 * path is cut, or masked, here.
 */
export function addConstraint(fastify: FastifyInstance): void {
  if (fastify.hasConstraintStrategy(CONSTRAINT)) return
  const host = hostOf(fastify)
  const { prefixes, methods } = host
  const routed = new Set([...methods, 'HEAD'])
  const isOurs = (url: string) => {
    // RFC 9112, section 3.2.2: the whole address.
    const path = url.replace(/^[a-z]+:\/\/[^/?]*/i, '')
    return [...prefixes].some((prefix) => path.startsWith(prefix))
  }
  const preflightKind = (url: string): Kind | undefined => {
    if (!holdsToken(url) && pathOf(url) !== '/') return 'preflight'
    const prefixed = [...prefixes].some((prefix) => !isRootPrefix(prefix) && url.startsWith(prefix))
    return prefixed || !host.answersPreflights ? 'preflight-shared' : undefined
  }
  fastify.addConstraintStrategy({
    name: CONSTRAINT,
    storage() {
      const handlers = new Map<unknown, never>()
      return {
        get: (value: unknown) => handlers.get(value) ?? null,
        set: (value: unknown, handler: never) => handlers.set(value, handler),
        del: (value: unknown) => handlers.delete(value),
        empty: () => handlers.clear()
      } as never
    },
    deriveConstraint(request: ConstrainedRequest) {
      const { url = '', method = '', headers } = request
      const kind: Kind | undefined =
        method !== 'GET'
          ? undefined
          : headers.upgrade?.toLowerCase() === 'websocket'
            ? 'upgrade'
            : headers.accept?.includes('text/event-stream')
              ? 'events'
              : undefined
      if (kind !== undefined) {
        if (!isDecodable(url)) {
          malformed.add(request)
          request.url = url.slice(0, url.indexOf('%'))
        }
        return kind
      }
      const preflight =
        method === 'OPTIONS' && headers.origin && headers['access-control-request-method']
          ? preflightKind(url)
          : undefined
      if (!holdsToken(url)) return preflight
      if (!isDecodable(url)) request.url = maskTokens(url)
      if (routed.has(method)) return 'token'
      if (isOurs(url)) request.url = maskTokens(url)
      return preflight
    },
    validate() {}
  } as Parameters<FastifyInstance['addConstraintStrategy']>[0])
}

/** A request as it may be logged. */
export function describe(request: FastifyRequest, url: string) {
  return {
    method: request.method,
    url,
    host: request.host,
    remoteAddress: request.ip,
    remotePort: request.socket?.remotePort
  }
}

/** Logs requests as Fastify does, with tokens masked. */
export const maskingSerializers = {
  req: (request: FastifyRequest) => describe(request, maskTokens(request.raw.url!))
}
