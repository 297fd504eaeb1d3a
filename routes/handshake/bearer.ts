import type { FastifyRequest } from 'fastify'
import type { Token } from '../../lib/auth/index.js'
import { errors } from '../../lib/errors.js'
import type { VerifyToken } from '../../plugins/jwt.js'

/** The bearer token of a request (RFC 6750, section 2.1); undefined if it has none. */
export function bearerToken({ headers }: Pick<FastifyRequest, 'headers'>): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1]
}

/**
 * Reads and verifies the bearer token of a request.
 * @throws InvalidToken, TokenExpired (401), MalformedClaims (403), KeysUnavailable (503)
 */
export async function verifyBearer(request: FastifyRequest, verifyToken: VerifyToken): Promise<Token> {
  const token = bearerToken(request)
  if (token === undefined) {
    throw new errors.InvalidToken('the request needs the header "Authorization: Bearer <token>"')
  }
  return verifyToken(token)
}
