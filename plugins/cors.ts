import type { FastifyInstance, FastifyReply } from 'fastify'
import { isAllowedOrigin } from '../lib/config/index.js'

/** The methods of the plugin's HTTP routes. */
const METHODS = 'GET, POST, DELETE'

/** The headers of answers that pages may read, in addition to the common ones. */
const EXPOSED = 'x-pgws-next, x-pgws-total, x-pgws-missing-nodes'

/** How long browsers may cache the answer to a preflight request, in seconds. */
const MAX_AGE = 600

/**
 * Allows pages of the allowed origins to use the HTTP routes of this scope, and answers their preflight requests if it has
 * routes for `OPTIONS` (https://fetch.spec.whatwg.org/#http-cors-protocol).
 *
 * @fastify/cors decorates requests and answers `OPTIONS` for the whole server, so it cannot be registered twice, or together
 * with a catch-all route of the host. The answers of a host's own @fastify/cors stay.
 * @param allowedOrigins undefined: no headers are sent
 */
export function registerCors(fastify: FastifyInstance, allowedOrigins: readonly string[] | undefined): void {
  if (allowedOrigins === undefined) return
  fastify.addHook('onRequest', async (request, reply) => {
    const { origin } = request.headers
    addVary(reply, 'Origin')
    if (origin === undefined || !isAllowedOrigin(origin, allowedOrigins)) return
    if (!reply.hasHeader('access-control-allow-origin')) reply.header('access-control-allow-origin', origin)
    if (request.method !== 'OPTIONS') {
      reply.header('access-control-expose-headers', EXPOSED)
      return
    }
    addVary(reply, 'Access-Control-Request-Headers')
    const { 'access-control-request-headers': requested } = request.headers
    if (requested !== undefined) reply.header('access-control-allow-headers', requested)
    reply.header('access-control-allow-methods', METHODS).header('access-control-max-age', MAX_AGE)
    return reply.code(204).send()
  })
}

function addVary(reply: FastifyReply, field: string): void {
  const fields = String(reply.getHeader('vary') ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter(Boolean)
  if (fields.some((name) => name === '*' || name.toLowerCase() === field.toLowerCase())) return
  reply.header('vary', [...fields, field].join(', '))
}
