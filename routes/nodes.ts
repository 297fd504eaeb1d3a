import type { FastifyInstance } from 'fastify'
import { authorizeAdmin } from '../lib/auth/index.js'
import type { Gateway } from '../lib/gateway.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { checkQuery } from './known.js'
import { nodeStatsSchema } from './node-stats-schema.js'
import { bearer, errorSchema } from './schemas.js'

/** `GET /nodes`: the servers that share the database and the listen channel, for tokens with `"admin": true`. */
export function nodesRoute(
  fastify: FastifyInstance,
  { gateway, verifyToken }: { gateway: Gateway; verifyToken: VerifyToken }
): void {
  const time = { type: 'string', format: 'date-time' }
  fastify.get(
    '/nodes',
    {
      schema: {
        tags: ['nodes'],
        summary: 'The nodes',
        security: bearer,
        response: {
          200: {
            description: 'The nodes that share the database and the listen channel.',
            type: 'array',
            items: {
              type: 'object',
              properties: {
                id: { type: 'string' },
                hostname: { type: 'string' },
                pid: { type: 'integer' },
                version: { type: 'string' },
                startedAt: time,
                lastSeen: time,
                connections: { type: 'integer', description: 'Open connections at the last heartbeat.' },
                self: { type: 'boolean', description: 'Whether this is the node that answers.' },
                stats: nodeStatsSchema
              }
            }
          },
          400: errorSchema('The query is malformed.'),
          401: errorSchema('The token is missing or invalid.'),
          403: errorSchema("The token is no admin's."),
          503: errorSchema('The database is unavailable, so the other nodes are not known.')
        }
      }
    },
    async (request) => {
      authorizeAdmin(await verifyBearer(request, verifyToken))
      checkQuery(request)
      return gateway.nodesWithStats()
    }
  )
}
