import Fastify, { type FastifyInstance } from 'fastify'
import type { Metrics } from '../lib/metrics.js'
import { metricsRoute } from '../routes/metrics.js'

/** Serves `GET /metrics` on a port of its own, on all addresses, for as long as the instance runs. */
export function serveMetrics(fastify: FastifyInstance, metrics: Metrics, port: number): void {
  const server = Fastify({ forceCloseConnections: true })
  metricsRoute(server, { metrics })
  fastify.addHook('onReady', async () => {
    const address = await server.listen({ port, host: '::' }).catch((error) => {
      if (error.code !== 'EAFNOSUPPORT') throw error
      return server.listen({ port, host: '0.0.0.0' })
    })
    fastify.log.info(`metrics at ${address}/metrics`)
  })
  fastify.addHook('onClose', () => server.close())
}
