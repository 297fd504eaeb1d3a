import type { FastifyInstance } from 'fastify'
import type { Claims } from '../lib/auth/index.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { errorHandler } from './error-handler.js'
import { verifyBearer } from './handshake/bearer.js'

/** How long a refreshed token is valid, in seconds. */
const LIFETIME = 60 * 60

/**
 * `POST /token`, for the sample page. It exchanges a valid token for one with the same claims that expires in an hour, and
 * answers 401 to any other. An application should check its own session instead.
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
