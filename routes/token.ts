import type { FastifyInstance } from 'fastify'
import type { Claims } from '../lib/auth/index.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { errorHandler } from './error-handler.js'
import { verifyBearer } from './handshake/bearer.js'

/** How long a refreshed token is valid, in seconds. */
const LIFETIME = 60 * 60

/**
 * `POST /token`, for the page of a first run: a token that is still valid is answered with one of the same claims
 * that ends in an hour; any other with 401. An application asks its own session instead whether there is to be one.
 */
export function tokenRoute(
  fastify: FastifyInstance,
  { verifyToken, sign }: { verifyToken: VerifyToken; sign: (claims: Claims) => string }
): void {
  fastify.post('/token', { errorHandler }, async (request, reply) => {
    reply.header('cache-control', 'no-store')
    const { claims } = await verifyBearer(request, verifyToken)
    return { token: sign({ ...claims, exp: Math.floor(Date.now() / 1000) + LIFETIME }) }
  })
}
