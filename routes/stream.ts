import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { errors } from '../lib/errors.js'
import { type HandshakeLog, takeOver } from './handshake/take-over.js'

/**
 * Starts a streamed response, and sends its head at once.
 * @param use is called with the response; if it throws, the connection is closed
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
      // The type allows undefined for each header, but only headers with values are set.
      ...(reply.getHeaders() as Record<string, string>),
      'content-type': contentType,
      'cache-control': 'no-cache, no-transform',
      // Without this header, nginx would buffer the response.
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
 * To be called before a stream is admitted. A request that is pipelined after an unanswered one has no socket yet. After a
 * stream it would never get one, and the server would not notice when its client disconnects.
 * @throws BadQuery (400)
 */
export function requireTurn(reply: FastifyReply): void {
  if (reply.raw.socket === null) {
    throw new errors.BadQuery('a stream must not be pipelined after an unanswered request')
  }
}
