import type { FastifyInstance } from 'fastify'
import { errors } from '../lib/errors.js'
import { defineBearer } from '../plugins/documentation.js'
import { maskingSerializers } from './handshake/request-log.js'
import { CONSTRAINT, hostOf } from './handshake/router-constraint.js'
import { HIDDEN } from './schemas.js'

/**
 * Answers plain HTTP requests to the websocket addresses, so that neither the host's log nor its 404 contains the token. A
 * request with a JSON Web Token in its path arrives here only if the host has no route for it.
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
    // This is the first of the plugin's routes in a document.
    config: { swaggerTransform: defineBearer },
    logSerializers: maskingSerializers,
    async handler() {
      throw new errors.NotFound()
    }
  })
}
