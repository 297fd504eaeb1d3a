import { randomBytes } from 'node:crypto'
import fastifyJwt from '@fastify/jwt'
import type { FastifyInstance } from 'fastify'
import {
  type Claims,
  keysFor,
  RemoteKeySet,
  type Token,
  type TokenRules,
  tokenReader,
  type VerificationKey
} from '../lib/auth/index.js'
import { errors } from '../lib/errors.js'

/**
 * Verifies a token, and parses its claims.
 * @throws InvalidToken, TokenExpired, TokenRevoked (401), MalformedClaims (403), KeysUnavailable (503)
 */
export type VerifyToken = (token: string) => Token | Promise<Token>

interface VerifyingKey extends VerificationKey {
  verify: (token: string) => Claims
}

interface TokenHeader {
  alg?: unknown
  kid?: unknown
}

export interface JwtOptions extends TokenRules {
  keys: readonly VerificationKey[]
  jwksUrl: string | undefined
  /** Whether a token is refused although it has not expired. */
  isRevoked: (token: Token) => boolean
}

/**
 * Registers @fastify/jwt once for each key (its fast path needs a static key), and once for keys that are fetched, under
 * namespaces that do not conflict with the host's. lib/auth/claims.ts checks the times of a token, with other tolerances.
 */
export async function registerJwt(fastify: FastifyInstance, options: JwtOptions): Promise<VerifyToken> {
  const keys: VerifyingKey[] = []
  for (const [index, key] of options.keys.entries()) {
    const { verify } = await register(fastify, `pgws${index}`, key.algorithms, key.secret ?? key.publicKey!)
    keys.push({ ...key, verify: (token) => verify<Claims>(token) })
  }
  const remote = options.jwksUrl === undefined ? undefined : await registerRemote(fastify, options.jwksUrl)

  const parse = tokenReader(options)
  const read = (claims: Claims) => {
    const token = parse(claims)
    if (options.isRevoked(token)) throw new errors.TokenRevoked()
    return token
  }

  // Most tokens have the same header, so the last one is cached.
  let lastHeader: string | undefined
  let lastCandidates: VerifyingKey[] = []

  return function verifyToken(token) {
    if (token === '') throw new errors.InvalidToken('the token is missing')
    const encodedHeader = token.slice(0, Math.max(token.indexOf('.'), 0))
    let candidates = lastCandidates
    if (encodedHeader !== lastHeader) {
      const header = decodeHeader(encodedHeader)
      if (header === undefined) throw new errors.InvalidToken('the token is not a JSON Web Token (RFC 7519)')
      candidates = keysFor(keys, header)
      if (candidates.length === 0) {
        if (remote === undefined) throw unknownKey()
        return remote(token, header).then(read)
      }
      lastHeader = encodedHeader
      lastCandidates = candidates
    }
    return read(verifyWith(token, candidates))
  }
}

/** Keys that are fetched: verifies with the set's keys, which is fetched again for a key that it does not have. */
async function registerRemote(
  fastify: FastifyInstance,
  url: string
): Promise<(token: string, header: TokenHeader) => Promise<Claims>> {
  const remote = new RemoteKeySet({ url, log: fastify.log })
  // @fastify/jwt requires a secret. No token is verified with this one.
  const jwt = await register(fastify, 'pgwsRemote', ['HS256'], randomBytes(32))
  await remote.start()
  fastify.addHook('onClose', async () => remote.stop())

  const candidatesFor = (header: TokenHeader) =>
    keysFor(remote.keys, header).map((key) => ({
      ...key,
      verify: (token: string) =>
        // The names of algorithms are texts here; lib/auth/keys.ts knows no other ones.
        jwt.verify<Claims>(token, { key: key.publicKey!, algorithms: key.algorithms } as never)
    }))
  return async (token, header) => {
    let candidates = candidatesFor(header)
    if (candidates.length === 0) {
      await remote.refreshUnknown()
      candidates = candidatesFor(header)
    }
    if (candidates.length === 0) throw unknownKey()
    return verifyWith(token, candidates)
  }
}

async function register(
  fastify: FastifyInstance,
  namespace: string,
  algorithms: string[],
  key: Buffer | string
): Promise<FastifyInstance['jwt']> {
  // The types of the options differ by the kind of the key.
  await fastify.register(fastifyJwt, {
    namespace,
    secret: typeof key === 'string' ? { public: key } : key,
    // As above.
    verify: { algorithms: algorithms as never, ignoreExpiration: true, ignoreNotBefore: true }
  } as Parameters<typeof fastifyJwt>[1])
  // The types do not know the decorator of a namespace.
  return (fastify.jwt as FastifyInstance['jwt'] & Record<string, FastifyInstance['jwt']>)[namespace]!
}

function verifyWith(token: string, candidates: readonly VerifyingKey[]): Claims {
  for (const { verify } of candidates) {
    let claims: Claims
    try {
      claims = verify(token)
    } catch {
      // The error's message may contain parts of the token.
      continue
    }
    if (typeof claims === 'object' && claims !== null && !Array.isArray(claims)) return claims
  }
  throw new errors.InvalidToken('the token is not signed with one of the configured keys')
}

function unknownKey(): Error {
  return new errors.InvalidToken('no configured key matches "alg" and "kid" of the token\'s header')
}

function decodeHeader(encoded: string): TokenHeader | undefined {
  try {
    const parsed = JSON.parse(Buffer.from(encoded, 'base64url').toString('utf8'))
    return typeof parsed === 'object' && parsed !== null ? parsed : undefined
  } catch {
    return undefined
  }
}
