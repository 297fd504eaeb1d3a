import type { FastifyInstance } from 'fastify'
import { errors } from '../lib/errors.js'
import { maskingSerializers } from './handshake/request-log.js'
import { CONSTRAINT, hostOf, isRootPrefix, type Kind } from './handshake/router-constraint.js'
import { HIDDEN } from './schemas.js'

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
        schema: HIDDEN,
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
