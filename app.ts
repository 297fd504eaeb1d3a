import { createHmac, randomBytes } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import pgWebsockets from './index.js'
import { maskTokens } from './lib/address.js'
import { startEmbeddedPostgres } from './lib/embedded-postgres.js'
import { parseKeys } from './lib/keys.js'
import { type ResolvedOptions, resolveOptions } from './lib/options.js'
import { registerEnv } from './plugins/env.js'

/** The website of a first run. Compiled, this file is one folder deeper. */
const PUBLIC_FOLDER = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './public' : '../public', import.meta.url)
)

/** On the embedded database the page shows who comes and goes. */
const EMBEDDED_META_CHANNEL = 'server-info'

/**
 * The app: `PGWS_*` variables → options → the plugin, and static files. `fastify start` and our own command
 * run it.
 * @param _options fastify-cli hands its own over, and refuses a function that takes none
 */
export default async function app(fastify: FastifyInstance, _options: object): Promise<void> {
  const config = await registerEnv(fastify)
  const { dbUri, jwtSecret, rootPath, ...rest } = config
  const { host: _, port: __, certificateFile: ___, keyFile: ____, embeddedFolder, ...options } = rest

  if (dbUri !== undefined) {
    await fastify.register(pgWebsockets, { ...options, dbUri, jwtSecret: jwtSecret! })
  } else {
    const postgres = await startEmbeddedPostgres({
      folder: resolve(embeddedFolder),
      log: (line) => fastify.log.info(line)
    })
    // Hooks of a kind run last in, first out: the database ends after everything that uses it.
    fastify.addHook('onClose', () => postgres.stop())
    const embedded = {
      ...options,
      dbUri: postgres.uri,
      jwtSecret: jwtSecret ?? randomBytes(32).toString('base64url'),
      metaChannel: options.metaChannel ?? EMBEDDED_META_CHANNEL
    }
    await fastify.register(pgWebsockets, embedded)
    const resolved = resolveOptions(embedded)
    const key = parseKeys(resolved.jwtSecret, resolved.jwtSecretBase64).find(
      ({ secret }) => secret !== undefined
    )
    fastify.addHook('onListen', async () => {
      const token = key?.secret && signToken({ mode: 'rw', admin: true }, key.secret)
      // Behind the log's lines about the addresses, which come after this hook.
      setTimeout(() => printWelcome(fastify, resolved, token), 50).unref()
    })
  }

  const root = rootPath ?? (dbUri === undefined ? PUBLIC_FOLDER : undefined)
  if (root !== undefined) await fastify.register(fastifyStatic, { root: resolve(root) })
  fastify.setNotFoundHandler(notFound)

  // Where the listener is not supervised, whoever started us restarts us.
  fastify.pgws.once('lost', () => {
    process.exitCode = 1
  })
}

/** Options of the Fastify instance that runs the app: `fastify start --options`. No URL is logged with a token. */
export const options: FastifyServerOptions = {
  logger: {
    level: 'info',
    serializers: {
      req: (request: FastifyRequest) => ({
        method: request.method,
        url: maskTokens(request.raw.url ?? ''),
        host: request.host,
        remoteAddress: request.ip,
        remotePort: request.socket?.remotePort
      })
    }
  },
  // A first connection may take its 5 retries: longer than Fastify waits for a hook by default.
  pluginTimeout: 0,
  frameworkErrors(error, request, reply) {
    const message = maskTokens(error.message)
    const statusCode = error.statusCode ?? 500
    // No route has been found, so there is no type for the answer.
    const untyped = reply as unknown as FastifyReply
    untyped.code(statusCode).send({ statusCode, code: error.code, error: STATUS_CODES[statusCode], message })
    request.log.info({ req: request, code: error.code }, message)
  }
}

function notFound(request: FastifyRequest, reply: FastifyReply): void {
  const url = maskTokens(request.raw.url ?? '')
  reply
    .code(404)
    .send({ statusCode: 404, error: 'Not Found', message: `Route ${request.method}:${url} not found` })
}

/** A token (RFC 7519, HS256) for the page of a first run. */
function signToken(claims: object, secret: Buffer): string {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`
  return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`
}

function printWelcome(
  fastify: FastifyInstance,
  { listenChannel, metaChannel, dbUri }: ResolvedOptions,
  token: string | undefined
): void {
  const address = fastify.server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  const scheme = fastify.initialConfig.https ? 'https' : 'http'
  const origin = `${scheme}://localhost:${port}`
  const shown = token ?? '<a token that PGWS_JWT_SECRET verifies>'
  const sql = `select pg_notify('${listenChannel.replaceAll("'", "''")}', json_build_object('channel', 'chat', 'payload', 'Hello from SQL')::text)`
  const fragment = new URLSearchParams({
    ...(token !== undefined && { token }),
    channel: 'chat',
    meta: metaChannel!,
    ...(listenChannel !== 'postgres-websockets-listener' && { listen: listenChannel })
  })
  process.stdout.write(`
  fastify-pg-websockets is running on an embedded PostgreSQL (for development).

  Open this page, twice:
    ${origin}/#${fragment}

  Send to it over HTTP:
    curl -X POST ${origin}/publish -H 'Authorization: Bearer ${shown}' -H 'Content-Type: application/json' -d '{"channel":"chat","payload":"Hello from curl"}'

  Send to it from SQL:
    npm run sql -- "${sql}"
    psql '${dbUri}' -c "${sql}"

`)
}
