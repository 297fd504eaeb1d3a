import type { FastifyInstance } from 'fastify'
import { errors } from '../lib/errors.js'
import { defineBearer } from '../plugins/documentation.js'
import { maskingSerializers } from './handshake/request-log.js'
import { CONSTRAINT, hostOf } from './handshake/router-constraint.js'
import { HIDDEN } from './schemas.js'

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
    schema: HIDDEN,
    // The first of our routes that a document sees.
    config: { swaggerTransform: defineBearer },
    logSerializers: maskingSerializers,
    async handler() {
      throw new errors.NotFound()
    }
  })
}
