import type { FastifyInstance } from 'fastify'
import { errors } from '../lib/errors.js'
import { maskingSerializers } from './handshake/request-log.js'
import { CONSTRAINT, hostOf, isRootPrefix, type Kind } from './handshake/router-constraint.js'
import { HIDDEN } from './schemas.js'

/**
 * Adds routes for preflight requests, which registerCors answers. They cover the plugin's HTTP addresses. With a prefix, they
 * cover all addresses below it; without one, also the root and addresses with a token, unless the host answers `OPTIONS` for
 * all addresses. Requests that are not preflight requests are left to the host's routes for `OPTIONS`.
 * @param paths the paths of the plugin's HTTP routes, below the prefix
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
