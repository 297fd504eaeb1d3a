import { statSync } from 'node:fs'
import { STATUS_CODES } from 'node:http'
import { resolve } from 'node:path'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import pgWebsockets from './index.js'
import { parseKeys, signingKeyOf } from './lib/auth/index.js'
import { readTrustProxy, resolveOptions } from './lib/config/index.js'
import { keepSecret, startEmbeddedPostgres } from './lib/embedded-postgres/index.js'
import { watchNpx } from './lib/parent-process.js'
import { type Config, pluginOptions, registerEnv } from './plugins/env.js'
import { PAGE_CHANNEL, retainPageChannel, samplePage } from './plugins/sample-page.js'
import { welcome } from './plugins/welcome.js'
import { maskTokens } from './routes/handshake/address.js'

/** The default meta channel with the embedded database: the sample page shows its events. */
const EMBEDDED_META_CHANNEL = 'server-info'

/**
 * The server as a Fastify plugin: reads the `PGWS_*` variables, registers pgWebsockets with them, and serves static
 * files. Without `PGWS_DB_URI` it starts an embedded PostgreSQL. Run it with `fastify-pg-websockets`, or with
 * `fastify start --options node_modules/fastify-pg-websockets/dist/app.js`.
 * @param _options not used; fastify-cli refuses a function without this parameter
 * @throws Error that names every variable that is missing, malformed or misspelled
 */
export default async function app(fastify: FastifyInstance, _options: object): Promise<void> {
  // fastify-cli ends the server in order on a signal.
  const unwatch = watchNpx(() => process.kill(process.pid, 'SIGTERM'))
  fastify.addHook('onClose', async () => unwatch())
  await serveApp(fastify, { environment: process.env })
}

/** The app with the variables of an environment. */
export async function serveApp(
  fastify: FastifyInstance,
  { environment }: { environment: NodeJS.ProcessEnv }
): Promise<void> {
  const config = await registerEnv(fastify, environment)
  const { dbUri, rootPath, embeddedFolder } = config
  const options = pluginOptions(config)
  if (rootPath !== undefined) checkRootPath(rootPath)

  if (dbUri !== undefined) {
    await fastify.register(pgWebsockets, { ...options, dbUri })
  } else {
    const postgres = await startEmbeddedPostgres({
      folder: resolve(embeddedFolder),
      log: (line) => fastify.log.info(line)
    })
    // onClose hooks run in reverse order: the database ends after everything that uses it.
    fastify.addHook('onClose', () => postgres.stop())
    const embedded = {
      ...options,
      dbUri: postgres.uri,
      ...(options.jwksUrl === undefined && {
        jwtSecret: options.jwtSecret ?? keepSecret(postgres.home)
      }),
      metaChannel: options.metaChannel ?? EMBEDDED_META_CHANNEL,
      dashboard: options.dashboard ?? true,
      ...(rootPath === undefined && { presenceChannels: options.presenceChannels ?? PAGE_CHANNEL }),
      migrate: true
    }
    const resolved = resolveOptions(embedded)
    // Before the plugin reads which channels are durable.
    if (rootPath === undefined) await retainPageChannel(resolved)
    await fastify.register(pgWebsockets, embedded)
    const keys =
      resolved.jwtSecret === undefined ? [] : parseKeys(resolved.jwtSecret, resolved.jwtSecretBase64)
    if (rootPath === undefined) await fastify.register(samplePage, { ...resolved, keys })
    fastify.addHook('onListen', () => welcome(fastify, resolved, signingKeyOf(keys)))
  }

  if (rootPath !== undefined) await fastify.register(fastifyStatic, { root: resolve(rootPath) })
  fastify.setNotFoundHandler(notFound)

  // The exit code tells a process manager to restart the server.
  fastify.pgws.once('lost', () => {
    process.exitCode = 1
  })
}

/** @throws Error if the folder does not exist */
function checkRootPath(folder: string): void {
  const stat = statSync(folder, { throwIfNoEntry: false })
  if (!stat?.isDirectory()) {
    throw new Error(`PGWS_ROOT_PATH names "${folder}", which ${stat ? 'is not a folder' : 'does not exist'}`)
  }
}

/** The part of the configuration that the Fastify instance takes. */
export type ServerConfig = Pick<Config, 'handshakeTimeout' | 'trustProxy'>

/**
 * Options of the Fastify instance that runs the server. Tokens are masked in the URLs that it logs.
 * @param https certificate and key; undefined for plain HTTP
 */
export function serverOptions({ handshakeTimeout, trustProxy }: ServerConfig, https?: object) {
  // Node.js looks for requests that take too long every 30 s by default.
  const timeouts = { connectionsCheckingInterval: 1000, headersTimeout: handshakeTimeout }
  return {
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
    requestTimeout: handshakeTimeout,
    ...(https === undefined ? { http: timeouts } : { https: { ...timeouts, handshakeTimeout, ...https } }),
    // registerEnv() has checked the value.
    ...(trustProxy !== undefined && { trustProxy: readTrustProxy(trustProxy) ?? false }),
    // The retries of the first connection may take longer than Fastify waits for a hook by default.
    pluginTimeout: 0,
    frameworkErrors(error, request, reply) {
      const message = maskTokens(error.message)
      const statusCode = error.statusCode ?? 500
      // No route was found, so the reply has no type.
      const untyped = reply as FastifyReply
      untyped
        .code(statusCode)
        .send({ statusCode, code: error.code, error: STATUS_CODES[statusCode], message })
      request.log.info({ req: request, code: error.code }, message)
    }
  } satisfies FastifyServerOptions
}

/** For `fastify start --options`, which creates the Fastify instance before the app reads its configuration. */
export const options: FastifyServerOptions = serverOptions({
  handshakeTimeout: Number(process.env.PGWS_HANDSHAKE_TIMEOUT) || 10_000,
  trustProxy: process.env.PGWS_TRUST_PROXY || undefined
})

function notFound(request: FastifyRequest, reply: FastifyReply): void {
  const url = maskTokens(request.raw.url ?? '')
  reply
    .code(404)
    .send({ statusCode: 404, error: 'Not Found', message: `Route ${request.method}:${url} not found` })
}
