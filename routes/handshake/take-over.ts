import type { FastifyRequest } from 'fastify'
import { asError } from '../../lib/errors.js'
import { maskTokens } from './address.js'

/** How what happens to a handshake is logged. */
export interface HandshakeLog {
  error(fields: object, message: string): void
  /** A request as it may be logged: its URL may hold a token. */
  describeRequest(request: FastifyRequest): object
}

/**
 * Does what is left to do once Fastify has let go of a request (`reply.hijack()`), where Fastify would log an error
 * together with the whole URL.
 * @param transport destroyed when it throws
 */
export function takeOver(
  request: FastifyRequest,
  transport: { destroy(): unknown },
  log: HandshakeLog,
  work: () => void
): void {
  try {
    work()
  } catch (error) {
    const { name, message, stack = '' } = asError(error)
    const err = { type: name, message: maskTokens(message), stack: maskTokens(stack) }
    log.error({ err, req: log.describeRequest(request) }, `could not serve a client: ${err.message}`)
    transport.destroy()
  }
}
