import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import pg from 'pg'
import type { Test } from 'tap'
import { type ClientOptions, WebSocket } from 'ws'
import pgWebsockets, { type PgWebsocketsOptions } from '../../index.js'
import { FlowControl } from '../../lib/flow/flow-control.js'
import { migrate } from '../../lib/schema/migrate.js'
import { createDatabase, LISTEN_CHANNEL, migratedDatabase, sharedPostgres, testPostgres } from './postgres.js'

export const SECRET = 'reallyreallyreallyreallyverysafe'
export { LISTEN_CHANNEL }

/** A test, or anything else that runs teardowns. */
export type Owner = Pick<Test, 'teardown'>

/** When to fail a test that hangs, in milliseconds. No test is about how long something takes. */
export const DEADLINE = 60_000

/** Signs a token (HS256) with any claims, including malformed ones, which libraries refuse to sign. */
export function token(
  claims: unknown,
  secret = SECRET,
  header: object = { alg: 'HS256', typ: 'JWT' }
): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${part(header)}.${part(claims)}`
  return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`
}

/**
 * The PostgreSQL of the test run. `database()` creates an empty database, and `migrated()` one with the schema and retention
 * rules for channels.
 */
export async function withPostgres(t: Test) {
  const postgres = await sharedPostgres(t)
  return {
    postgres,
    database: () => createDatabase(postgres),
    async migrated(...patterns: string[]): Promise<string> {
      const dbUri = await migratedDatabase(postgres)
      for (const pattern of patterns) await query(dbUri, 'select pgws.retain($1, $2)', [pattern, '1 hour'])
      return dbUri
    }
  }
}

/** The same on a PostgreSQL that only the test file uses, and may stop. */
export async function withOwnPostgres(t: Test) {
  const postgres = await testPostgres(t)
  return { postgres, database: () => createDatabase(postgres) }
}

/** The log lines of an app. */
export interface Logged {
  lines: string[]
}

/** Starts a host with the plugin on a free port. It is closed after the test. */
export async function build(
  t: Test,
  options: Partial<PgWebsocketsOptions> & { dbUri: string },
  {
    before,
    after,
    server = {},
    backlog = 511
  }: {
    before?: (fastify: FastifyInstance) => unknown
    after?: (fastify: FastifyInstance) => unknown
    server?: FastifyServerOptions
    backlog?: number
  } = {}
): Promise<{ fastify: FastifyInstance; port: number; http: string; ws: string } & Logged> {
  const lines: string[] = []
  const logger = { level: 'debug', stream: { write: (line: string) => lines.push(line) } }
  const fastify = Fastify({ logger, ...server } as FastifyServerOptions) as FastifyInstance
  t.teardown(() => fastify.close())
  await before?.(fastify)
  fastify.register(pgWebsockets, { jwtSecret: SECRET, ...options })
  await after?.(fastify)
  await fastify.listen({ port: 0, host: '127.0.0.1', backlog })
  const { port } = fastify.server.address() as AddressInfo
  return { fastify, port, lines, http: `http://127.0.0.1:${port}`, ws: `ws://127.0.0.1:${port}` }
}

/** A websocket client that collects the messages that it receives. */
export class Client {
  readonly webSocket: WebSocket
  readonly messages: string[] = []
  readonly binary: boolean[] = []
  #waiting: (() => void)[] = []

  constructor(webSocket: WebSocket) {
    this.webSocket = webSocket
    webSocket.on('error', () => {})
    webSocket.on('message', (data, isBinary) => {
      this.messages.push(data.toString())
      this.binary.push(isBinary)
      for (const check of this.#waiting) check()
    })
  }

  /** Resolves with the messages when there are `count` of them. */
  async received(count: number, timeout = DEADLINE): Promise<string[]> {
    if (this.messages.length < count) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(
          () => reject(new Error(`got ${this.messages.length} of ${count} messages: ${this.messages}`)),
          timeout
        )
        this.#waiting.push(() => {
          if (this.messages.length < count) return
          clearTimeout(timer)
          resolve()
        })
      })
    }
    return this.messages
  }

  send(data: string | Buffer): void {
    this.webSocket.send(data)
  }

  /** Resolves with the close code and reason when the websocket has closed. */
  async closed(): Promise<{ code: number; reason: string }> {
    const [code, reason] = await once(this.webSocket, 'close')
    return { code, reason: String(reason) }
  }
}

/** Opens a websocket. Rejects with Refused if the handshake is refused. */
export async function open(t: Test, url: string, options: ClientOptions = {}): Promise<Client> {
  const webSocket = new WebSocket(url, options)
  t.teardown(() => webSocket.terminate())
  const client = new Client(webSocket)
  await new Promise<void>((resolve, reject) => {
    webSocket.once('open', resolve)
    webSocket.once('error', reject)
    webSocket.once('unexpected-response', async (_request, response) => {
      const chunks: Buffer[] = []
      for await (const chunk of response) chunks.push(chunk as Buffer)
      reject(new Refused(response.statusCode!, Buffer.concat(chunks).toString()))
    })
  })
  return client
}

/** The answer to a refused websocket handshake. */
export class Refused extends Error {
  readonly status: number
  readonly body: string
  constructor(status: number, body: string) {
    super(`refused with ${status}: ${body}`)
    this.status = status
    this.body = body
  }

  /** The `message` of Fastify's error. */
  get answer(): string {
    return JSON.parse(this.body).message
  }
}

/** Opens a websocket that must be refused. Resolves with the refusal. */
export async function refusal(t: Test, url: string, options: ClientOptions = {}): Promise<Refused> {
  try {
    const client = await open(t, url, options)
    client.webSocket.terminate()
  } catch (error) {
    if (error instanceof Refused) return error
    throw error
  }
  throw new Error(`a socket was opened, though it had to be refused: ${url.slice(0, 80)}`)
}

/** Runs one statement on a connection of its own. */
export async function query(dbUri: string, text: string, values: unknown[] = []): Promise<pg.QueryResult> {
  const client = new pg.Client(dbUri)
  // A lost connection also emits an error, in addition to the rejection of the statement.
  client.on('error', () => {})
  await client.connect()
  try {
    return await client.query(text, values)
  } finally {
    await client.end()
  }
}

/** Installs the schema `pgws`, so that a server knows from its start which channels are durable. */
export async function install(dbUri: string, ...patterns: string[]): Promise<void> {
  const client = new pg.Client(dbUri)
  await client.connect()
  try {
    await migrate(client, LISTEN_CHANNEL)
    for (const pattern of patterns) await client.query('select pgws.retain($1, $2)', [pattern, '1 hour'])
  } finally {
    await client.end()
  }
}

/** Notifies the listen channel, as any SQL client would. */
export async function notify(dbUri: string, payload: string, channel = LISTEN_CHANNEL): Promise<void> {
  await query(dbUri, 'select pg_notify($1, $2)', [channel, payload])
}

/** Listens to a database channel on its own connection, and collects the payloads. */
export async function sqlListener(
  t: Test,
  dbUri: string,
  channel = LISTEN_CHANNEL
): Promise<{ payloads: string[] }> {
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  const payloads: string[] = []
  client.on('notification', ({ payload }) => payloads.push(payload ?? ''))
  await client.query(`listen ${pg.escapeIdentifier(channel)}`)
  return { payloads }
}

/** Waits until a condition holds. Checks less and less often, because checking takes time from other processes. */
export async function until(condition: () => unknown, timeout = DEADLINE): Promise<void> {
  const deadline = Date.now() + timeout
  for (let pause = 5; !(await condition()); pause = Math.min(1.2 * pause, 100)) {
    if (Date.now() > deadline) throw new Error(`did not come true within ${timeout} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, pause))
  }
}

/** Flow control for connections that a test creates itself. */
export function flowControl(maxBufferedBytes: number): FlowControl {
  return new FlowControl({ maxBufferedBytes, maxTotalBufferedBytes: 2 ** 28, slowTimeout: 5000, onSlow() {} })
}
