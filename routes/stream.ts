import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { errors } from '../lib/errors.js'
import { type HandshakeLog, takeOver } from './handshake/take-over.js'

/**
 * Begins an answer that does not end: its head goes out at once.
 * @param use given the response; what it throws ends the connection
 */
export function openStream(
  reply: FastifyReply,
  contentType: string,
  log: HandshakeLog,
  use: (response: ServerResponse) => void
): void {
  const { raw, request } = reply
  reply.hijack()
  takeOver(request, raw, log, () => {
    raw.writeHead(200, {
      ...(reply.getHeaders() as Record<string, string>),
      'content-type': contentType,
      'cache-control': 'no-cache, no-transform',
      // nginx gathers answers otherwise.
      'x-accel-buffering': 'no',
      // The stream's end is the connection's: it counts as one for as long as it is open. HTTP/2 has streams for that.
      ...(request.raw.httpVersionMajor === 1 && { connection: 'close' })
    })
    raw.flushHeaders()
    // A request that is injected for a test has no socket of the network.
    raw.socket?.setNoDelay?.()
    use(raw)
  })
}

/**
 * To be called before a stream is admitted. What is pipelined behind a request that has not been answered has no
 * socket yet; behind a stream it never would, nor would anybody be told when its client has gone.
 * @throws BadQuery (400)
 */
export function requireTurn(reply: FastifyReply): void {
  if (reply.raw.socket === null) {
    throw new errors.BadQuery('a stream must not be pipelined behind an unanswered request')
  }
}
