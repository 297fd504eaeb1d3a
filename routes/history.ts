import type { FastifyInstance } from 'fastify'
import type { Bridge } from '../lib/bridge.js'
import { authorize } from '../lib/claims.js'
import { errors } from '../lib/errors.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { bearerClaims } from './authorization.js'
import { bearer, errorSchema } from './schemas.js'

const SUFFIX = '/history'
const DEFAULT_LIMIT = 100
const MAX_LIMIT = 1000

/** `GET /channels/:channel/history?since=&limit=`: what is stored of a durable channel, for a token that may read it. */
export function historyRoute(
  fastify: FastifyInstance,
  { bridge, verifyToken }: { bridge: Bridge; verifyToken: VerifyToken }
): void {
  fastify.get(
    // A parameter may not be longer than the host's maxParamLength; a wildcard may.
    '/channels/*',
    {
      schema: {
        tags: ['channels'],
        summary: 'The stored messages of a durable channel (/channels/:channel/history)',
        security: bearer,
        querystring: {
          type: 'object',
          properties: {
            since: {
              type: 'string',
              description: 'The id of a message: those after it. Default: the oldest.'
            },
            limit: { type: 'string', description: `At most so many, up to ${MAX_LIMIT}.`, examples: ['100'] }
          }
        },
        response: {
          401: errorSchema('No valid token.'),
          403: errorSchema('The token may not read the channel.'),
          501: errorSchema('Durable channels are not installed.')
        }
      },
      validatorCompiler: () => () => true
    },
    async (request, reply) => {
      const { '*': path } = request.params as { '*': string }
      if (!path.endsWith(SUFFIX) || path.length === SUFFIX.length) throw new errors.NotFound()
      const channel = path.slice(0, -SUFFIX.length)
      const claims = await bearerClaims(request, verifyToken)
      const { read } = authorize(claims, [channel])
      if (!read) throw new errors.ReadNotAllowed()
      await bridge.authorize(claims, [channel], 'r')
      const { since, limit } = request.query as { since?: string; limit?: string }
      const messages = await bridge.history(channel, since, readLimit(limit))
      // Each is the text of a JSON object already.
      reply.type('application/json; charset=utf-8')
      return `{"messages":[${messages.map(({ text }) => text).join(',')}]}`
    }
  )
}

function readLimit(text: string | undefined): number {
  if (text === undefined) return DEFAULT_LIMIT
  const limit = Number(text)
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    throw new errors.BadMessage(`"limit" must be a whole number from 1 to ${MAX_LIMIT}`)
  }
  return limit
}
