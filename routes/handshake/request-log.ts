import type { FastifyRequest } from 'fastify'
import { maskTokens } from './address.js'

/** A request as it may be logged. */
export function describeRequestAs(request: FastifyRequest, url: string) {
  return {
    method: request.method,
    url,
    host: request.host,
    remoteAddress: request.ip,
    remotePort: request.socket?.remotePort
  }
}

/** Logs requests as Fastify does, with tokens masked. */
export const maskingSerializers = {
  req: (request: FastifyRequest) => describeRequestAs(request, maskTokens(request.raw.url!))
}
