import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'

/** Begins an answer that does not end: its head goes out at once. */
export function openStream(reply: FastifyReply, contentType: string): ServerResponse {
  reply.hijack()
  const { raw } = reply
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': contentType,
    'cache-control': 'no-cache, no-transform',
    // nginx gathers answers otherwise.
    'x-accel-buffering': 'no',
    // The stream's end is the connection's: it counts as one for as long as it is open.
    connection: 'close'
  })
  raw.flushHeaders()
  raw.socket?.setNoDelay()
  return raw
}
