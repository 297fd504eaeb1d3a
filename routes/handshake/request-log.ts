import type { FastifyRequest } from 'fastify'
import { maskTokens } from './address.js'

/**
 * The fields of a request for logs.
 * @param url the URL with its token masked
 */
export function describeRequestAs(request: FastifyRequest, url: string) {
  return {
    method: request.method,
    url,
    host: request.host,
    remoteAddress: request.ip,
    remotePort: request.socket?.remotePort
  }
}

/** Serializers that log requests as Fastify does, but mask tokens. */
export const maskingSerializers = {
  req: (request: FastifyRequest) => describeRequestAs(request, maskTokens(request.raw.url!))
}
