import type { FastifyInstance } from 'fastify'

/** The part of Node.js's Http2Session that is used here. */
interface Session {
  /** Accepts no new streams, and ends the session when its streams have ended. */
  close(): void
  once(event: 'close', callback: () => void): unknown
}

/**
 * Ends the HTTP/2 sessions of a server when it closes. Before Node.js 24, `server.close()` waits until the clients end
 * their sessions (https://nodejs.org/api/http2.html#serverclosecallback). Call it after the hooks that end the streams.
 */
export function endSessionsOnClose(fastify: FastifyInstance): void {
  const sessions = new Set<Session>()
  let closing = false
  // HTTP/1.1 servers do not emit this event.
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
