import type { FastifyInstance } from 'fastify'
import { authorizeAdmin } from '../lib/auth/index.js'
import type { Bridge } from '../lib/bridge.js'
import { CHANNEL_SORTS, type ChannelSort } from '../lib/channels/index.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { checkQuery, textOf } from './known.js'
import { answeringPage, pagingHeaders, pagingSchema } from './paging.js'
import { bearer, errorSchema } from './schemas.js'
import { answeringScope, scopeSchema } from './scope.js'

/** `GET /channels`: the connected channels, in pages, for tokens with `"admin": true`. */
export function channelsRoute(
  fastify: FastifyInstance,
  { bridge, verifyToken }: { bridge: Bridge; verifyToken: VerifyToken }
): void {
  const text = { type: 'string' }
  const count = { type: 'integer' }
  fastify.get<{ Querystring: Partial<Record<string, unknown>> }>(
    '/channels',
    {
      schema: {
        tags: ['channels'],
        summary: 'The channels that clients have joined',
        security: bearer,
        querystring: {
          type: 'object',
          properties: {
            scope: scopeSchema,
            search: { ...text, description: 'A part of their names.' },
            channel: { ...text, description: 'The name of one channel.' },
            sort: {
              ...text,
              enum: CHANNEL_SORTS,
              default: 'channel',
              description: 'By name, or by readers or rate, the largest first.'
            },
            ...pagingSchema
          }
        },
        response: {
          200: {
            description: 'One entry for each channel that clients have joined.',
            headers: pagingHeaders,
            type: 'array',
            items: {
              type: 'object',
              properties: {
                channel: text,
                connections: count,
                readers: count,
                writers: count,
                rate: {
                  type: ['number', 'null'],
                  description:
                    'Messages a second, times readers, of the last seconds. It is measured while somebody asks; null: from now on.'
                },
                durable: { type: 'boolean', description: 'Whether its messages are stored.' },
                presence: { type: 'boolean', description: 'Whether it tracks its members.' },
                raw: { type: 'boolean', description: 'Whether it is the database channel of the same name.' }
              }
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
      const { query } = request
      return bridge.listChannels({
        search: textOf(query, 'search'),
        channel: textOf(query, 'channel'),
        // What is no order is refused by listChannels.
        sort: textOf(query, 'sort') as ChannelSort | undefined,
        ...answeringScope(request, reply),
        ...answeringPage(request, reply)
      })
    }
  )
}
