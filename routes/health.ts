import type { FastifyInstance } from 'fastify'
import type { Gateway } from '../lib/gateway.js'
import { healthSchema } from './schemas.js'

/** `GET /health`, and for orchestrators `GET /health/live` and `GET /health/ready`. None needs a token. */
export function healthRoutes(fastify: FastifyInstance, { gateway }: { gateway: Gateway }): void {
  // Load balancers check every few seconds. Their requests would flood the log.
  const logLevel = 'warn'
  const config = { rateLimit: false }
  const response = {
    200: healthSchema(
      'The listener is alive and the pool answers. `degraded`: the notification queue fills up, messages were lost, a permission is missing, or the database refuses writes.'
    ),
    503: healthSchema('One of them is not.')
  }

  fastify.get(
    '/health',
    { logLevel, config, schema: { tags: ['health'], summary: 'The state of each part', response } },
    async (_request, reply) => {
      const health = await gateway.bridge.health()
      return reply.code(health.status === 'unavailable' ? 503 : 200).send(health)
    }
  )

  fastify.get(
    '/health/live',
    {
      logLevel,
      config,
      schema: {
        tags: ['health'],
        summary: 'Liveness: the process answers',
        response: {
          200: {
            description: 'The process answers.',
            type: 'object',
            properties: { status: { type: 'string', enum: ['ok'] } }
          }
        }
      }
    },
    async () => ({ status: 'ok' })
  )

  fastify.get(
    '/health/ready',
    {
      logLevel,
      config,
      schema: {
        tags: ['health'],
        summary: 'Readiness: the server accepts connections; 503 during shutdown',
        response
      }
    },
    async (_request, reply) => {
      const health = await gateway.bridge.health()
      if (gateway.closing) health.status = 'unavailable'
      return reply.code(health.status === 'unavailable' ? 503 : 200).send(health)
    }
  )
}
