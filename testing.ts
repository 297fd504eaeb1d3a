import { mkdtempSync, rmSync } from 'node:fs'
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { duplexPair } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { type ClientOptions, WebSocket } from 'ws'
import { parseKeys, signToken as sign, signingKeyOf } from './lib/auth/index.js'
import { startEmbeddedPostgres } from './lib/embedded-postgres/index.js'

/** Test data need not survive a crash (https://www.postgresql.org/docs/current/non-durability.html). */
const NON_DURABLE = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }

/** A PostgreSQL server for tests. */
export interface EmbeddedDatabase {
  /** A libpq URI over a Unix socket, for the option `dbUri` and for `pg`. */
  readonly url: string
  /** Stops PostgreSQL and deletes its data. */
  stop(): Promise<void>
}

/** PostgreSQL servers for tests, from the binaries of the package `embedded-postgres`. */
export const embedded = {
  /**
   * Starts a new, empty PostgreSQL server (on Linux and macOS) with its data in a temporary folder. It also stops when
   * this process ends.
   * @param settings further settings, as in postgresql.conf
   * @returns the server, ready for connections
   * @throws Error that says what to install if `embedded-postgres` is missing
   */
  async start(settings: Record<string, string> = {}): Promise<EmbeddedDatabase> {
    const folder = mkdtempSync(join(tmpdir(), 'pgws-embedded-'))
    const remove = (...folders: string[]) => {
      for (const path of folders) rmSync(path, { recursive: true, force: true })
    }
    try {
      const postgres = await startEmbeddedPostgres({ folder, settings: { ...NON_DURABLE, ...settings } })
      return {
        url: postgres.uri,
        async stop() {
          await postgres.stop()
          // If root starts it, the data is in another folder (docs/server.md).
          remove(folder, postgres.home, postgres.socketFolder)
        }
      }
    } catch (error) {
      remove(folder)
      throw error
    }
  }
}

/**
 * Signs a token for a test.
 * @param claims the claims, such as `{ mode: 'rw', channels: ['chat'] }`
 * @param jwtSecret the value of the plugin's option `jwtSecret`
 * @returns the token, a JWT
 * @throws Error if the key cannot sign, because it is a public key
 */
export function signToken(claims: Record<string, unknown>, jwtSecret: string): string {
  const key = signingKeyOf(parseKeys(jwtSecret))
  if (key === undefined) throw new Error('jwtSecret must be a secret: a public key cannot sign tokens')
  return sign(claims, key)
}

/**
 * Opens a websocket to an application that does not listen on a port, as `fastify.inject` does for HTTP. Waits for
 * `fastify.ready()` first.
 * @param path the path with its query, such as `/chat/<token>`
 * @param options those of a client of `ws`, such as `headers`, and `protocols`, the subprotocols to offer
 * @returns the open websocket
 * @throws Error with the status of the answer if the handshake is refused
 */
export async function injectWS(
  fastify: FastifyInstance,
  path: string,
  { protocols = [], ...options }: ClientOptions & { protocols?: string[] } = {}
): Promise<WebSocket> {
  await fastify.ready()
  const [client, server] = duplexPair()
  const webSocket = new WebSocket(`ws://localhost${path}`, protocols, {
    ...options,
    // `ws` needs a duplex stream only, but its types say net.Socket.
    createConnection: () => client as Socket
  })
  // `request.ip` reads these of a net.Socket.
  const connection = Object.assign(server, { remoteAddress: '127.0.0.1', remoteFamily: 'IPv4' })
  ;(fastify.server as Server).emit('connection', connection)
  await new Promise<void>((resolve, reject) => {
    webSocket.once('open', resolve).once('error', reject)
  })
  return webSocket
}
