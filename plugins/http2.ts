import type { FastifyInstance } from 'fastify'

/** What we need of Node.js's Http2Session. */
interface Session {
  /** Ends it when its streams have ended; no new ones may begin. */
  close(): void
  once(event: 'close', callback: () => void): unknown
}

/**
 * Ends the HTTP/2 sessions of a server with it: before version 24 of Node.js, `server.close()` waits until the clients
 * end theirs (https://nodejs.org/api/http2.html#serverclosecallback). To be called behind what ends the streams.
 */
export function endSessionsOnClose(fastify: FastifyInstance): void {
  const sessions = new Set<Session>()
  let closing = false
  // Servers of HTTP/1.1 have no such event.
  fastify.server.on('session', (session: Session) => {
    sessions.add(session)
    session.once('close', () => sessions.delete(session))
    if (closing) session.close()
  })
  fastify.addHook('preClose', async () => {
    closing = true
    for (const session of sessions) session.close()
  })
}
