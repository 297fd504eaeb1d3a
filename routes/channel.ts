import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import type { WebSocket } from 'ws'
import { holdsToken, isDecodable, maskAddress, maskTokens, parseAddress } from '../lib/address.js'
import type { Bridge } from '../lib/bridge.js'
import { type Access, authorize } from '../lib/claims.js'
import { errors } from '../lib/errors.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { releaseRequest } from '../plugins/websocket.js'

/** The name of our find-my-way constraint. */
const CONSTRAINT = 'pgws'

/** The part of a request that a constraint sees. */
interface ConstrainedRequest {
  url?: string
  headers: { upgrade?: string | undefined }
}

declare module 'fastify' {
  interface FastifyRequest {
    /** What the token of a websocket request allows; set before the upgrade. */
    pgwsAccess: Access | null
  }
}

/**
 * The websocket routes `/:channel/:token` and `/:token`.
 *
 * They are told from a host's routes of the same shape (`/:slug`) by a constraint on the `Upgrade` header. Our
 * own HTTP addresses get a websocket twin each, so that a channel may be named like them. Parameters are read
 * from the URL itself, since a router's parameter may not be longer than the host's `maxParamLength`; what is
 * longer falls through to the wildcard.
 * @param paths the paths of our own HTTP routes, below the prefix
 */
export function channelRoutes(
  fastify: FastifyInstance,
  { bridge, verifyToken, paths }: { bridge: Bridge; verifyToken: VerifyToken; paths: Iterable<string> }
): void {
  const { prefix } = fastify
  fastify.decorateRequest('pgwsAccess', null)

  const pathBelowPrefix = (request: FastifyRequest) => request.raw.url!.slice(prefix.length)

  const route: Omit<RouteOptions, 'url'> & { websocket: true } = {
    method: 'GET',
    websocket: true,
    constraints: { [CONSTRAINT]: 'upgrade' },
    schema: { hide: true } as object,
    logSerializers: { req: (request) => describe(request, prefix + maskAddress(pathBelowPrefix(request))) },
    async preValidation(request) {
      if (!request.ws) throw new errors.UpgradeRequired()
      if (bridge.closing) throw new errors.ShuttingDown()
      if (malformed.has(request.raw))
        throw new errors.BadAddress('its percent-encoding cannot be decoded as UTF-8')
      const { channel, token } = parseAddress(pathBelowPrefix(request))
      request.pgwsAccess = authorize(verifyToken(token), channel)
    },
    handler: ((webSocket: WebSocket, request: FastifyRequest) => {
      releaseRequest(webSocket, request)
      bridge.connect(webSocket, request.pgwsAccess!)
    }) as never
  }
  for (const url of new Set(['/', '/:token', '/:channel/:token', '/*', ...paths])) {
    fastify.route({ ...route, url } as RouteOptions)
  }
}

/**
 * Answers plain HTTP requests to our websocket addresses, so that no host's 404 repeats the token. A request
 * whose path holds a JSON Web Token comes here only where the host has no route for it.
 */
export function plainHttpRoute(fastify: FastifyInstance): void {
  fastify.route({
    method: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'],
    url: '/*',
    constraints: { [CONSTRAINT]: 'token' },
    schema: { hide: true } as object,
    logSerializers: { req: (request) => describe(request, maskTokens(request.raw.url!)) },
    async handler() {
      throw new errors.NotFound()
    }
  })
}

const malformed = new WeakSet<object>()

/**
 * Makes the constraint known to the router, once for each host. It is the one place that sees a request before
 * the router decodes its path, and the router's answer to a path that cannot be decoded repeats it: so such a
 * path is cut, or masked, here.
 */
export function addConstraint(fastify: FastifyInstance): void {
  if (fastify.hasConstraintStrategy(CONSTRAINT)) return
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
      const url = request.url ?? ''
      if (request.headers.upgrade?.toLowerCase() === 'websocket') {
        if (!isDecodable(url)) {
          malformed.add(request)
          request.url = url.slice(0, url.indexOf('%'))
        }
        return 'upgrade'
      }
      if (!holdsToken(url)) return undefined
      if (!isDecodable(url)) request.url = maskTokens(url)
      return 'token'
    },
    validate() {}
  } as Parameters<FastifyInstance['addConstraintStrategy']>[0])
}

function describe(request: FastifyRequest, url: string) {
  return {
    method: request.method,
    url,
    host: request.host,
    remoteAddress: request.ip,
    remotePort: request.socket?.remotePort
  }
}
