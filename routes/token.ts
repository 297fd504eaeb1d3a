import type { FastifyInstance } from 'fastify'
import { authorizeAdmin, type Claims } from '../lib/auth/index.js'
import { errors } from '../lib/errors.js'
import { isObject } from '../lib/json-value.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { errorHandler } from './error-handler.js'
import { verifyBearer } from './handshake/bearer.js'
import { nameAndKnown } from './known.js'

/** How long a refreshed token is valid, in seconds. */
const LIFETIME = 60 * 60

/** The maximum length of a name, in UTF-16 code units. */
const MAX_NAME_LENGTH = 100

/**
 * `POST /token`, for the sample page. It exchanges a valid token for one with the same claims that expires in an hour, and
 * answers 401 to any other. An application should check its own session instead.
 *
 * With the body `{"sub": "ann"}` it exchanges an administrator's token for one with this name, which expires when the given
 * token does. The start prints a token without a name, and the page asks for one. Other tokens keep their name, because
 * their owners must not take the names of others.
 */
export function tokenRoute(
  fastify: FastifyInstance,
  { verifyToken, sign }: { verifyToken: VerifyToken; sign: (claims: Claims) => string }
): void {
  fastify.post('/token', { errorHandler }, async (request, reply) => {
    reply.header('cache-control', 'no-store')
    const token = await verifyBearer(request, verifyToken)
    const { claims } = token
    const sub = nameIn(request.body)
    if (sub === undefined) {
      return { token: sign({ ...claims, exp: Math.floor(Date.now() / 1000) + LIFETIME }) }
    }
    authorizeAdmin(token)
    return { token: sign({ ...claims, sub }) }
  })
}

/** The name in a body; undefined without a body. @throws BadQuery (400) */
function nameIn(body: unknown): string | undefined {
  if (body === undefined || body === null) return undefined
  if (!isObject(body)) throw new errors.BadQuery('the body must be a JSON object, such as {"sub": "ann"}')
  const unknown = Object.keys(body).find((name) => name !== 'sub')
  if (unknown !== undefined) throw new errors.BadQuery(`the member ${nameAndKnown(unknown, ['sub'])}`)
  const { sub } = body
  if (typeof sub !== 'string' || sub.trim() === '' || sub.length > MAX_NAME_LENGTH) {
    throw new errors.BadQuery(`"sub" must be a name of 1 to ${MAX_NAME_LENGTH} characters`)
  }
  return sub.trim()
}
