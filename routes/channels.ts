import type { FastifyInstance } from 'fastify'
import { authorizeAdmin } from '../lib/auth/index.js'
import type { Bridge } from '../lib/bridge.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { checkQuery } from './known.js'
import { bearer, errorSchema } from './schemas.js'
import { answeringScope, scopeSchema } from './scope.js'

/** `GET /channels?scope=`: the connected channels, for tokens with `"admin": true`. */
export function channelsRoute(
  fastify: FastifyInstance,
  { bridge, verifyToken }: { bridge: Bridge; verifyToken: VerifyToken }
): void {
  const count = { type: 'integer' }
  fastify.get(
    '/channels',
    {
      schema: {
        tags: ['channels'],
        summary: 'The channels that clients have joined',
        security: bearer,
        querystring: { type: 'object', properties: { scope: scopeSchema } },
        response: {
          200: {
            description: 'One entry for each channel that clients have joined.',
            type: 'array',
            items: {
              type: 'object',
              properties: { channel: { type: 'string' }, connections: count, readers: count, writers: count }
            }
          },
          400: errorSchema('The query is malformed.'),
          401: errorSchema('The token is missing or invalid.'),
          403: errorSchema("The token is no admin's."),
          503: errorSchema('The database is unavailable, and so are the other nodes.')
        }
      },
      validatorCompiler: () => () => true
    },
    async (request, reply) => {
      authorizeAdmin(await verifyBearer(request, verifyToken))
      checkQuery(request)
      const { scope, onMissing } = answeringScope(request, reply)
      return scope === 'cluster' ? bridge.channels({ scope, onMissing }) : bridge.channels()
    }
  )
}
