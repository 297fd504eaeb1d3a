import type { FastifyInstance, FastifyRequest } from 'fastify'
import { authorizeAdmin, type Token } from '../lib/auth/index.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import { isObject } from '../lib/json-value.js'
import { MAX_PAGE } from '../lib/page.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { checkQuery, nameAndKnown } from './known.js'
import { answeringPage, pagingHeaders, pagingSchema } from './paging.js'
import { bearer, errorSchema } from './schemas.js'

const text = { type: 'string' }
const time = { ...text, format: 'date-time' }

/** What is revoked, as a body names it. */
const requestProperties = {
  jti: { ...text, description: 'The claim "jti" of the token.' },
  sub: { ...text, description: 'The claim "sub" of the tokens.' },
  issuedBefore: {
    ...time,
    description:
      'Tokens of "sub" whose claim "iat" is before this time, or missing, are revoked. Default: now.'
  },
  expires: {
    ...time,
    description: 'When the last of the tokens expires. The revocation is deleted then. Default: never.'
  },
  reason: { ...text, description: 'For administrators.' }
}

const nullable = (schema: { type: string }) => ({ ...schema, type: [schema.type, 'null'] })

const revocationSchema = {
  type: 'object',
  properties: {
    id: text,
    jti: nullable(text),
    sub: nullable(text),
    issuedBefore: nullable(time),
    expires: nullable(time),
    reason: nullable(text),
    revokedBy: { ...text, description: 'The administrator, or the database role.' },
    revokedAt: time
  }
}

const refusals = {
  401: errorSchema('The token is missing or invalid.'),
  403: errorSchema("The token is no admin's."),
  501: errorSchema('The schema "pgws" is not installed.'),
  503: errorSchema('The database is unavailable.')
}

/** `GET /revocations?limit=&after=`, `POST /revocations` and `DELETE /revocations/:id`, for tokens with `"admin": true`. */
export function revocationsRoutes(
  fastify: FastifyInstance,
  { gateway, verifyToken }: { gateway: Gateway; verifyToken: VerifyToken }
): void {
  const { bridge } = gateway
  const common = { tags: ['revocations'], security: bearer }
  const validatorCompiler = () => () => true

  async function admin(request: FastifyRequest): Promise<Token> {
    const token = await verifyBearer(request, verifyToken)
    authorizeAdmin(token)
    checkQuery(request)
    return token
  }

  fastify.get<{ Querystring: Partial<Record<string, unknown>> }>(
    '/revocations',
    {
      schema: {
        ...common,
        summary: 'The revoked tokens',
        querystring: {
          type: 'object',
          properties: {
            ...pagingSchema,
            limit: {
              ...pagingSchema.limit,
              description: `The maximum number of revocations, 1 to ${MAX_PAGE}. Default: 100.`
            }
          }
        },
        response: {
          200: {
            description: 'The revocations, by id.',
            headers: pagingHeaders,
            type: 'array',
            items: revocationSchema
          },
          400: errorSchema('The query is malformed.'),
          ...refusals
        }
      },
      validatorCompiler
    },
    async (request, reply) => {
      await admin(request)
      return bridge.revocations(answeringPage(request, reply))
    }
  )

  fastify.post(
    '/revocations',
    {
      schema: {
        ...common,
        summary: 'Revoke a token, or the tokens of a subject',
        body: { type: 'object', properties: requestProperties },
        response: {
          201: {
            description: 'The revocation. All nodes obey within a second.',
            type: 'object',
            properties: { id: text }
          },
          400: errorSchema('The body is malformed.'),
          ...refusals
        }
      },
      validatorCompiler
    },
    async (request, reply) => {
      const { subject } = await admin(request)
      const { jti, sub, issuedBefore, expires, reason } = textsOf(request.body)
      const { id } = await bridge.revoke({
        jti,
        sub,
        issuedBefore: timeOf(issuedBefore),
        expires: timeOf(expires),
        reason,
        revokedBy: subject
      })
      const what = jti !== undefined ? `the token ${JSON.stringify(jti)}` : `tokens of ${JSON.stringify(sub)}`
      gateway.administered(subject, `revoked ${what}`, { reason })
      return reply.code(201).send({ id })
    }
  )

  fastify.delete<{ Params: { id: string } }>(
    '/revocations/:id',
    {
      schema: {
        ...common,
        summary: 'Withdraw a revocation',
        params: { type: 'object', properties: { id: text } },
        response: {
          204: { description: 'It is withdrawn.', type: 'null' },
          404: errorSchema('There is no revocation with this id.'),
          ...refusals
        }
      },
      validatorCompiler
    },
    async (request, reply) => {
      const { subject } = await admin(request)
      const { id } = request.params
      await bridge.unrevoke(id)
      gateway.administered(subject, `withdrew the revocation ${id}`)
      return reply.code(204).send()
    }
  )
}

/** @throws BadQuery (400) for a body with anything else than known texts */
function textsOf(body: unknown): Partial<Record<keyof typeof requestProperties, string>> {
  if (!isObject(body)) throw new errors.BadQuery('the body must be a JSON object with "jti" or "sub"')
  const known = Object.keys(requestProperties)
  for (const [name, value] of Object.entries(body)) {
    if (!known.includes(name)) throw new errors.BadQuery(`in the body, ${nameAndKnown(name, known)}`)
    if (typeof value !== 'string') throw new errors.BadQuery(`"${name}" must be a string`)
  }
  return body
}

function timeOf(value: string | undefined): Date | undefined {
  return value === undefined ? undefined : new Date(value)
}
