import type { FastifyRequest } from 'fastify'
import { asError } from '../../lib/errors.js'
import { maskTokens } from './address.js'

/** The log of handshakes. */
export interface HandshakeLog {
  error(fields: object, message: string): void
  /** The fields of a request for logs, with tokens masked. */
  describeRequest(request: FastifyRequest): object
}

/**
 * Runs the rest of a handshake after `reply.hijack()`. Errors are logged here, because Fastify would log them together with
 * the whole URL.
 * @param transport is destroyed if `work` throws
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
    log.error({ err, request: log.describeRequest(request) }, `could not serve a client: ${err.message}`)
    transport.destroy()
  }
}
