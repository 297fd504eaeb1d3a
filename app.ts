import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { statSync } from 'node:fs'
import { STATUS_CODES } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyHelmet from '@fastify/helmet'
import fastifyRateLimit from '@fastify/rate-limit'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import pgWebsockets, { type PgWebsocketsOptions } from './index.js'
import {
  authorize,
  parseKeys,
  type SigningKey,
  signingKeyOf,
  signToken,
  tokenReader,
  type VerificationKey
} from './lib/auth/index.js'
import {
  optionSpecs,
  originHost,
  type ResolvedOptions,
  readTrustProxy,
  resolveOptions
} from './lib/config/index.js'
import { readOwnFile, startEmbeddedPostgres, writeOwnFile } from './lib/embedded-postgres/index.js'
import { connect, parseConninfo } from './lib/postgres/index.js'
import { migrate } from './lib/schema/index.js'
import { type Config, registerEnv } from './plugins/env.js'
import { registerJwt } from './plugins/jwt.js'
import { maskTokens } from './routes/handshake/address.js'
import { tokenRoute } from './routes/token.js'

/** The website of a first run. Compiled, this file is one folder deeper. */
const PUBLIC_FOLDER = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './public' : '../public', import.meta.url)
)

/** On the embedded database the page shows who comes and goes. */
const EMBEDDED_META_CHANNEL = 'server-info'

/** The channel of our page: it is known who is there, and what was said is kept for those who come back. */
const PAGE_CHANNEL = 'chat'

/**
 * The app: `PGWS_*` variables → options → the plugin, and static files. `fastify start` and our own command
 * run it.
 * @param _options fastify-cli hands its own over, and refuses a function that takes none
 */
export default async function app(fastify: FastifyInstance, _options: object): Promise<void> {
  const config = await registerEnv(fastify)
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
    // Hooks of a kind run last in, first out: the database ends after everything that uses it.
    fastify.addHook('onClose', () => postgres.stop())
    const embedded = {
      ...options,
      dbUri: postgres.uri,
      ...(options.jwksUrl === undefined && {
        jwtSecret: options.jwtSecret ?? embeddedSecret(postgres.home)
      }),
      metaChannel: options.metaChannel ?? EMBEDDED_META_CHANNEL,
      ...(rootPath === undefined && { presenceChannels: options.presenceChannels ?? PAGE_CHANNEL }),
      migrate: true
    }
    const resolved = resolveOptions(embedded)
    // Before the server looks which channels are durable.
    if (rootPath === undefined) await retainPageChannel(resolved)
    await fastify.register(pgWebsockets, embedded)
    const keys =
      resolved.jwtSecret === undefined ? [] : parseKeys(resolved.jwtSecret, resolved.jwtSecretBase64)
    if (rootPath === undefined) await fastify.register(ownPage, { ...resolved, keys })
    const key = signingKeyOf(keys)
    fastify.addHook('onListen', async () => {
      const token = welcomeToken(key, resolved)
      const localhost = await lookup('localhost', { all: true }).catch(() => [])
      const scheme = fastify.initialConfig.https ? 'https' : 'http'
      const origin = `${scheme}://${originHost(fastify.addresses() as AddressInfo[], localhost)}`
      // Behind the log's lines about the addresses, which come after this hook.
      setTimeout(() => printWelcome(origin, resolved, token), 50).unref()
    })
  }

  if (rootPath !== undefined) await fastify.register(fastifyStatic, { root: resolve(rootPath) })
  fastify.setNotFoundHandler(notFound)

  // Where the listener is not supervised, whoever started us restarts us.
  fastify.pgws.once('lost', () => {
    process.exitCode = 1
  })
}

/**
 * The secret of a first run: a random one, kept beside the data of the embedded database, so that a page which is open
 * goes on after a restart.
 */
function embeddedSecret(folder: string): string {
  const file = join(folder, 'jwt-secret')
  const kept = readOwnFile(file)
  if (kept) return kept
  const secret = randomBytes(32).toString('base64url')
  writeOwnFile(file, secret)
  return secret
}

/** A token for our page; undefined where we cannot sign it, or the options want another: an issuer, claims elsewhere. */
function welcomeToken(key: SigningKey | undefined, options: ResolvedOptions): string | undefined {
  const claims = { mode: 'rw', admin: true }
  try {
    authorize(tokenReader(options)(claims), [PAGE_CHANNEL])
  } catch {
    return undefined
  }
  return key && signToken(claims, key)
}

/** Keeps what is said on our page, unless the database's owner has said for how long. */
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

/** The page of a first run. An operator's own files get no headers of ours. */
async function ownPage(
  scope: FastifyInstance,
  { keys, httpRateLimit, jwtAudience, jwtIssuer }: PageOptions
): Promise<void> {
  await scope.register(fastifyHelmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      // No upgrade-insecure-requests: on a local network there is no TLS.
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
  await scope.register(fastifyStatic, { root: PUBLIC_FOLDER })
  const key = signingKeyOf(keys)
  // Where tokens come from elsewhere, so do fresh ones.
  if (key === undefined) return
  await scope.register(async (limited) => {
    if (httpRateLimit !== undefined) {
      await limited.register(fastifyRateLimit, { max: httpRateLimit, timeWindow: 60_000 })
    }
    const verifyToken = await registerJwt(limited, { keys, jwksUrl: undefined, jwtAudience, jwtIssuer })
    tokenRoute(limited, { verifyToken, sign: (claims) => signToken(claims, key) })
  })
}

/** @throws Error where there is nothing to serve */
function checkRootPath(folder: string): void {
  const stat = statSync(folder, { throwIfNoEntry: false })
  if (!stat?.isDirectory()) {
    throw new Error(`PGWS_ROOT_PATH names "${folder}", which ${stat ? 'is not a folder' : 'does not exist'}`)
  }
}

/** What of the configuration is the plugin's. */
function pluginOptions(config: Config): Omit<PgWebsocketsOptions, 'dbUri'> {
  const names = Object.keys(optionSpecs).filter((name) => name !== 'dbUri') as (keyof typeof optionSpecs)[]
  const { audienceChannels, audiencePath, audiencePublic } = config
  const channels = audienceChannels?.split(',').map((channel) => channel.trim())
  return {
    ...Object.fromEntries(names.map((name) => [name, config[name]])),
    ...(channels && { endpoints: [{ path: audiencePath, channels, public: audiencePublic }] })
  }
}

/** What the server itself is made with. */
export type ServerConfig = Pick<Config, 'handshakeTimeout' | 'trustProxy'>

/**
 * Options of the Fastify instance that runs the app. No URL is logged with a token.
 * @param https certificate and key, or undefined for plain HTTP
 */
export function serverOptions({ handshakeTimeout, trustProxy }: ServerConfig, https?: object) {
  // How often Node.js looks for requests that take too long; every 30 s where it is not told.
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
    // What it may be is checked where the variables are read.
    ...(trustProxy !== undefined && { trustProxy: readTrustProxy(trustProxy) ?? false }),
    // A first connection may take its 5 retries: longer than Fastify waits for a hook by default.
    pluginTimeout: 0,
    frameworkErrors(error, request, reply) {
      const message = maskTokens(error.message)
      const statusCode = error.statusCode ?? 500
      // No route has been found, so there is no type for the answer.
      const untyped = reply as FastifyReply
      untyped
        .code(statusCode)
        .send({ statusCode, code: error.code, error: STATUS_CODES[statusCode], message })
      request.log.info({ req: request, code: error.code }, message)
    }
  } satisfies FastifyServerOptions
}

/** For `fastify start --options`, which makes the server before the app can read its configuration. */
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
  { listenChannel, metaChannel, dbUri }: ResolvedOptions,
  token: string | undefined
): void {
  const shown = token ?? '<a token that PGWS_JWT_SECRET verifies>'
  const sql = `select pg_notify('${listenChannel.replaceAll("'", "''")}', json_build_object('channel', 'chat', 'payload', 'Hello from SQL')::text)`
  const fragment = new URLSearchParams({
    ...(token !== undefined && { token }),
    channel: 'chat',
    meta: metaChannel!
  })
  process.stdout.write(`
  fastify-pg-websockets is running on an embedded PostgreSQL (for development).

  Open this page in two windows:
    ${origin}/#${fragment}

  Watch a table live (the page has the SQL for it):
    ${origin}/table.html#${new URLSearchParams(token === undefined ? {} : { token })}

  Publish over HTTP:
    curl -X POST ${origin}/publish -H 'Authorization: Bearer ${shown}' -H 'Content-Type: application/json' -d '{"channel":"chat","payload":"Hello from curl"}'

  Publish from SQL:
    npm run sql -- "${sql}"
    psql '${dbUri}' -c "${sql}"

`)
}
