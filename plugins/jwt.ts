import fastifyJwt from '@fastify/jwt'
import type { FastifyInstance } from 'fastify'
import type { Claims } from '../lib/claims.js'
import { errors } from '../lib/errors.js'
import { keysFor, type VerificationKey } from '../lib/keys.js'

/** Verifies a token's signature and returns its claims; throws InvalidToken (401). */
export type VerifyToken = (token: string) => Claims

/**
 * Registers @fastify/jwt, once for each key (its fast path verifies with one static key), under names of our
 * own beside the host's. The times of a token are checked elsewhere (lib/claims.ts), with other tolerances.
 */
export async function registerJwt(
  fastify: FastifyInstance,
  verificationKeys: readonly VerificationKey[]
): Promise<VerifyToken> {
  const keys: (VerificationKey & { verify: (token: string) => Claims })[] = []
  for (const [index, key] of verificationKeys.entries()) {
    const namespace = `pgws${index}`
    await fastify.register(fastifyJwt, {
      namespace,
      secret: key.secret ?? { public: key.publicKey! },
      verify: { algorithms: key.algorithms as never, ignoreExpiration: true, ignoreNotBefore: true }
    } as Parameters<typeof fastifyJwt>[1])
    const { verify } = (fastify.jwt as unknown as Record<string, typeof fastify.jwt>)[namespace]!
    keys.push({ ...key, verify: (token) => verify<Claims>(token) })
  }

  // Nearly all tokens of an issuer have one and the same header.
  let lastHeader: string | undefined
  let lastCandidates: typeof keys = []

  function candidatesFor(encodedHeader: string): typeof keys {
    if (encodedHeader === lastHeader) return lastCandidates
    const header = decodeHeader(encodedHeader)
    if (header === undefined) throw new errors.InvalidToken('the token is no JSON Web Token (RFC 7519)')
    const candidates = keysFor(keys, header)
    if (candidates.length === 0) {
      throw new errors.InvalidToken('the token\'s algorithm ("alg", "kid") belongs to none of the keys')
    }
    lastHeader = encodedHeader
    lastCandidates = candidates
    return candidates
  }

  return function verifyToken(token) {
    if (token === '') throw new errors.InvalidToken('the token is missing')
    const candidates = candidatesFor(token.slice(0, Math.max(token.indexOf('.'), 0)))
    for (const { verify } of candidates) {
      let claims: Claims
      try {
        claims = verify(token)
      } catch {
        // Its message may repeat parts of the token.
        continue
      }
      if (typeof claims === 'object' && claims !== null && !Array.isArray(claims)) return claims
    }
    throw new errors.InvalidToken('the token is not signed by one of the keys')
  }
}

function decodeHeader(encoded: string): { alg?: unknown; kid?: unknown } | undefined {
  try {
    const parsed = JSON.parse(Buffer.from(encoded, 'base64url').toString('utf8'))
    return typeof parsed === 'object' && parsed !== null ? parsed : undefined
  } catch {
    return undefined
  }
}
