import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import type { Rejection } from '../lib/publishing/index.js'

/**
 * Answers with Fastify's own error shape, whatever a host's error handler does with the host's errors: clients
 * rely on our status codes.
 */
export function errorHandler(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const statusCode = error.statusCode !== undefined && error.statusCode >= 400 ? error.statusCode : 500
  // Our own refusals with 503 are no faults.
  const fault = statusCode >= 500 && !error.code?.startsWith('FST_PGWS_')
  if (fault) request.log.error({ err: error }, error.message)
  else request.log.info({ err: error }, error.message)
  const { sqlstate } = error as Partial<Rejection>
  reply.code(statusCode).send({
    statusCode,
    code: error.code,
    error: STATUS_CODES[statusCode],
    // Of a fault nobody knows what its text tells.
    message: fault ? 'The server failed: its log says how' : error.message,
    ...(sqlstate !== undefined && { sqlstate })
  })
}
