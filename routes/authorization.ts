import type { FastifyRequest } from 'fastify'
import type { Claims } from '../lib/claims.js'
import { errors } from '../lib/errors.js'
import type { VerifyToken } from '../plugins/jwt.js'

/**
 * The verified claims of a request's bearer token (RFC 6750, section 2.1).
 * @throws InvalidToken (401)
 */
export function bearerClaims(request: FastifyRequest, verifyToken: VerifyToken): Claims {
  const token = /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? '')?.[1]
  if (token === undefined) {
    throw new errors.InvalidToken('the request needs the header "Authorization: Bearer <token>"')
  }
  return verifyToken(token)
}
