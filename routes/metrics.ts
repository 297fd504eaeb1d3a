import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../lib/metrics.js'

/** `GET /metrics`: the metrics in Prometheus' text format. It needs no token. */
export function metricsRoute(fastify: FastifyInstance, { metrics }: { metrics: Metrics }): void {
  fastify.get(
    '/metrics',
    {
      logLevel: 'warn',
      config: { rateLimit: false },
      schema: {
        tags: ['metrics'],
        summary: "The server's metrics, for Prometheus",
        response: { 200: { description: "Prometheus' text format.", type: 'string' } }
      }
    },
    async (_request, reply) => {
      const text = await metrics.registry.metrics()
      return reply.type(metrics.registry.contentType).send(text)
    }
  )
}
