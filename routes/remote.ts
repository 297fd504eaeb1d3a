import type { FastifyRequest } from 'fastify'
import type { Remote } from '../lib/clients/index.js'

/** The client of a request, as the request describes it. */
export function remoteOf({ ip, headers }: FastifyRequest): Remote {
  return { address: ip, userAgent: headers['user-agent'] }
}
