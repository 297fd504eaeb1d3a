import fastifyCors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'
import { isAllowedOrigin } from '../lib/origins.js'

/**
 * Lets pages of the allowed origins ask the HTTP routes of this scope (https://fetch.spec.whatwg.org/#http-cors-protocol).
 * A host that answers preflight requests itself goes on doing so.
 */
export async function registerCors(
  fastify: FastifyInstance,
  allowedOrigins: readonly string[] | undefined
): Promise<void> {
  if (allowedOrigins === undefined || fastify.hasRoute({ method: 'OPTIONS', url: '*' })) return
  await fastify.register(fastifyCors, {
    origin: (origin, callback) => callback(null, isAllowedOrigin(origin, allowedOrigins)),
    methods: ['GET', 'POST', 'DELETE'],
    maxAge: 600
  })
}
