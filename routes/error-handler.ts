import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import type { Rejection } from '../lib/publishing/index.js'

/**
 * Answers errors in Fastify's own format, independent of the host's error handler, because clients rely on the status
 * codes.
 */
export function errorHandler(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const statusCode = error.statusCode !== undefined && error.statusCode >= 400 ? error.statusCode : 500
  // The plugin's own errors with 503 are not faults.
  const fault = statusCode >= 500 && !error.code?.startsWith('FST_PGWS_')
  if (fault) request.log.error({ err: error }, error.message)
  else request.log.info({ err: error }, error.message)
  const { sqlstate }: Partial<Rejection> = error
  reply.code(statusCode).send({
    statusCode,
    code: error.code,
    error: STATUS_CODES[statusCode],
    // The message of an unexpected error may contain anything.
    message: fault ? 'The server failed: its log says how' : error.message,
    ...(sqlstate !== undefined && { sqlstate })
  })
}
