import { lookup } from 'node:dns/promises'
import { statSync } from 'node:fs'
import { STATUS_CODES } from 'node:http'
import type { AddressInfo } from 'node:net'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyHelmet from '@fastify/helmet'
import fastifyRateLimit from '@fastify/rate-limit'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import pgWebsockets from './index.js'
import {
  authorize,
  authorizeAdmin,
  type Claims,
  parseKeys,
  type SigningKey,
  signingKeyOf,
  signToken,
  type Token,
  tokenReader,
  type VerificationKey
} from './lib/auth/index.js'
import { originHost, type ResolvedOptions, readTrustProxy, resolveOptions } from './lib/config/index.js'
import { keepSecret, startEmbeddedPostgres } from './lib/embedded-postgres/index.js'
import { watchNpx } from './lib/parent-process.js'
import { connect, parseConninfo } from './lib/postgres/index.js'
import { migrate } from './lib/schema/index.js'
import { type Config, pluginOptions, registerEnv } from './plugins/env.js'
import { registerJwt } from './plugins/jwt.js'
import { samplePages } from './routes/dashboard.js'
import { maskTokens } from './routes/handshake/address.js'
import { tokenRoute } from './routes/token.js'

/** The sample pages. The compiled file is one folder deeper. */
const PUBLIC_FOLDER = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './public' : '../public', import.meta.url)
)

/** The default meta channel with the embedded database: the sample page shows its events. */
const EMBEDDED_META_CHANNEL = 'server-info'

/** The channel of the sample page, which tracks presence and is durable. */
const PAGE_CHANNEL = 'chat'

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
    if (rootPath === undefined) await fastify.register(ownPage, { ...resolved, keys })
    const key = signingKeyOf(keys)
    fastify.addHook('onListen', async () => {
      const claims = { mode: 'rw', admin: true }
      const token = printedToken(key, resolved, claims)
      // The `sub` shows in the events and the log.
      const operator = printedToken(key, resolved, { ...claims, sub: 'operator' }, authorizeAdmin)
      const localhost = await lookup('localhost', { all: true }).catch(() => [])
      const scheme = fastify.initialConfig.https ? 'https' : 'http'
      const origin = `${scheme}://${originHost(fastify.addresses() as AddressInfo[], localhost)}`
      printWelcome(origin, resolved, { token, operator })
    })
  }

  if (rootPath !== undefined) await fastify.register(fastifyStatic, { root: resolve(rootPath) })
  fastify.setNotFoundHandler(notFound)

  // The exit code tells a process manager to restart the server.
  fastify.pgws.once('lost', () => {
    process.exitCode = 1
  })
}

/**
 * Signs a token that the start prints, for the sample page or the dashboard. Returns undefined if the key cannot sign, or
 * if the options require other claims (an issuer, or claims at other places).
 * @param check throws if a token lacks what its page needs
 */
function printedToken(
  key: SigningKey | undefined,
  options: ResolvedOptions,
  claims: Claims,
  check?: (token: Token) => void
): string | undefined {
  try {
    const token = tokenReader(options)(claims)
    authorize(token, [PAGE_CHANNEL])
    check?.(token)
  } catch {
    return undefined
  }
  return key && signToken(claims, key)
}

/** Makes the channel of the sample page durable, unless the database has a rule for it. */
async function retainPageChannel({ dbUri, listenChannel }: ResolvedOptions): Promise<void> {
  const client = await connect(parseConninfo(dbUri))
  try {
    await migrate(client, listenChannel)
    await client.query(`select pgws.retain($1, interval '1 day', 1000) where pgws.max_age($1) is null`, [
      PAGE_CHANNEL
    ])
  } finally {
    await client.end()
  }
}

interface PageOptions extends Pick<ResolvedOptions, 'httpRateLimit' | 'jwtAudience' | 'jwtIssuer'> {
  keys: readonly VerificationKey[]
}

/** Serves the sample pages, with security headers. Files of PGWS_ROOT_PATH do not get any. */
async function ownPage(
  scope: FastifyInstance,
  { keys, httpRateLimit, jwtAudience, jwtIssuer }: PageOptions
): Promise<void> {
  await scope.register(fastifyHelmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      // Without upgrade-insecure-requests, because there is often no TLS on a local network.
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'"],
        imgSrc: ["'self'", 'data:'],
        connectSrc: ["'self'", 'ws:', 'wss:'],
        formAction: ["'self'"],
        baseUri: ["'none'"],
        frameAncestors: ["'self'"]
      }
    },
    crossOriginOpenerPolicy: false,
    strictTransportSecurity: false
  })
  await scope.register(fastifyStatic, {
    root: PUBLIC_FOLDER,
    // The plugin serves it, if it is on.
    allowedPath: (path) => !path.startsWith('/dashboard')
  })
  samplePages.add(scope.server)
  const key = signingKeyOf(keys)
  // If an identity provider signs the tokens, it also renews them.
  if (key === undefined) return
  await scope.register(async (limited) => {
    if (httpRateLimit !== undefined) {
      await limited.register(fastifyRateLimit, { max: httpRateLimit, timeWindow: 60_000 })
    }
    const verifyToken = await registerJwt(limited, {
      keys,
      jwksUrl: undefined,
      jwtAudience,
      jwtIssuer,
      isRevoked: ({ claims }) => limited.pgws.isRevoked(claims)
    })
    tokenRoute(limited, { verifyToken, sign: (claims) => signToken(claims, key) })
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

function printWelcome(
  origin: string,
  { listenChannel, metaChannel, dbUri, dashboard }: ResolvedOptions,
  { token, operator }: { token: string | undefined; operator: string | undefined }
): void {
  const bearer = token ?? '<a token that PGWS_JWT_SECRET verifies>'
  const sql = `select pg_notify('${listenChannel.replaceAll("'", "''")}', json_build_object('channel', 'chat', 'payload', 'Hello from SQL')::text)`
  const fragment = new URLSearchParams({
    ...(token !== undefined && { token }),
    channel: 'chat',
    meta: metaChannel!
  })
  const dashboardLine = dashboard
    ? `
  See what is connected and what flows (the dashboard, for administrators):
    ${origin}/dashboard${operator === undefined ? '' : `#token=${operator}`}
`
    : ''
  process.stdout.write(`
  fastify-pg-websockets is running on an embedded PostgreSQL (for development).

  Open this page in two windows:
    ${origin}/#${fragment}

  Watch a table live (the page has the SQL for it):
    ${origin}/table.html#${new URLSearchParams(token === undefined ? {} : { token })}
${dashboardLine}
  Publish over HTTP:
    curl -X POST ${origin}/publish -H 'Authorization: Bearer ${bearer}' -H 'Content-Type: application/json' -d '{"channel":"chat","payload":"Hello from curl"}'

  Publish from SQL:
    npm run sql -- "${sql}"
    psql '${dbUri}' -c "${sql}"

`)
}
