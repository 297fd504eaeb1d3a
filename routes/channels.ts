import type { FastifyInstance } from 'fastify'
import type { Bridge } from '../lib/bridge.js'
import { authorizeAdmin } from '../lib/claims.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { bearerClaims } from './authorization.js'
import { bearer, errorSchema } from './schemas.js'

/** `GET /channels`: the connected channels, for tokens with `"admin": true`. */
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
        summary: 'The connected channels',
        security: bearer,
        response: {
          200: {
            description: 'One entry for each channel that somebody is connected to.',
            type: 'array',
            items: {
              type: 'object',
              properties: { channel: { type: 'string' }, connections: count, readers: count, writers: count }
            }
          },
          401: errorSchema('No valid token.'),
          403: errorSchema("The token is no admin's.")
        }
      }
    },
    async (request) => {
      authorizeAdmin(await bearerClaims(request, verifyToken))
      return bridge.channels()
    }
  )
}
