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

/** Data that does not outlive its tests need not survive a crash (https://www.postgresql.org/docs/current/non-durability.html). */
const NON_DURABLE = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }

/** A PostgreSQL for tests. */
export interface EmbeddedDatabase {
  /** A libpq URI over a Unix socket, for the option `dbUri` and for `pg`. */
  readonly url: string
  /** Ends PostgreSQL and removes its data. */
  stop(): Promise<void>
}

/** Databases for tests, from the binaries of the package `embedded-postgres`. */
export const embedded = {
  /**
   * Starts a new, empty PostgreSQL (Linux and macOS) with data in a temporary folder. It ends with this process, too.
   * @param settings further settings, as in postgresql.conf
   * @throws Error that says what to install where `embedded-postgres` is missing
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
          // As root the data is not in the folder.
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
 * @param claims such as `{ mode: 'rw', channels: ['chat'] }`
 * @param jwtSecret what the plugin's option of that name is
 * @throws Error where the secret only verifies tokens (a public key)
 */
export function signToken(claims: Record<string, unknown>, jwtSecret: string): string {
  const key = signingKeyOf(parseKeys(jwtSecret))
  if (key === undefined) throw new Error('jwtSecret must be a secret: a public key cannot sign tokens')
  return sign(claims, key)
}

/**
 * Opens a websocket to an application that does not listen, as `fastify.inject` does for HTTP.
 * @param path the address with its query, such as `/chat/<token>`
 * @param options those of a `ws` client, such as `headers`, and the subprotocols that it offers
 * @returns the open socket
 * @throws Error with the answer's status where the handshake is refused
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
    // `ws` needs a stream, its types a socket of the network.
    createConnection: () => client as Socket
  })
  // What the application asks a socket of the network, as in `request.ip`.
  const connection = Object.assign(server, { remoteAddress: '127.0.0.1', remoteFamily: 'IPv4' })
  ;(fastify.server as Server).emit('connection', connection)
  await new Promise<void>((resolve, reject) => {
    webSocket.once('open', resolve).once('error', reject)
  })
  return webSocket
}
