import Fastify, { type FastifyInstance } from 'fastify'
import { codeOf, errors, messageOf } from '../lib/errors.js'
import type { Metrics } from '../lib/metrics.js'
import { metricsRoute } from '../routes/metrics.js'

/** Serves `GET /metrics` on a port of its own, on all addresses, for as long as the instance runs. */
export function serveMetrics(fastify: FastifyInstance, metrics: Metrics, port: number): void {
  const server = Fastify({ forceCloseConnections: true })
  metricsRoute(server, { metrics })
  fastify.addHook('onReady', async () => {
    const address = await listen().catch((error) => {
      const problem =
        error.code === 'EADDRINUSE' ? 'is already in use: choose another port' : `: ${messageOf(error)}`
      throw new errors.InvalidOption('metricsPort', `(PGWS_METRICS_PORT=${port}) ${problem}`)
    })
    fastify.log.info(`serving metrics at ${address}/metrics`)
  })
  fastify.addHook('onClose', () => server.close())

  async function listen(): Promise<string> {
    try {
      return await server.listen({ port, host: '::' })
    } catch (error) {
      if (codeOf(error) !== 'EAFNOSUPPORT') throw error
      return server.listen({ port, host: '0.0.0.0' })
    }
  }
}
