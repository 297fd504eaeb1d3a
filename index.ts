import fastifyRateLimit from '@fastify/rate-limit'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { identityOf, parseKeys, Revocations } from './lib/auth/index.js'
import type { Bridge } from './lib/bridge.js'
import { type PgWebsocketsOptions, resolveOptions, variableOf } from './lib/config/index.js'
import { errors, messageOf } from './lib/errors.js'
import { parseConninfo } from './lib/postgres/index.js'
import { registerCors } from './plugins/cors.js'
import { registerDocumentation } from './plugins/documentation.js'
import { endSessionsOnClose } from './plugins/http2.js'
import { registerJwt } from './plugins/jwt.js'
import { decorateGateway } from './plugins/listener.js'
import { serveMetrics } from './plugins/metrics.js'
import { registerPool } from './plugins/postgres.js'
import { registerWebsocket } from './plugins/websocket.js'
import { audienceRoutes } from './routes/audience.js'
import { channelRoutes } from './routes/channel.js'
import { channelReadRoutes } from './routes/channel-read.js'
import { channelsRoute } from './routes/channels.js'
import { connectionsRoutes } from './routes/connections.js'
import { dashboardRoutes } from './routes/dashboard.js'
import { errorHandler } from './routes/error-handler.js'
import { eventStreamRoutes } from './routes/event-stream.js'
import { eventsRoute } from './routes/events.js'
import { pathOf } from './routes/handshake/address.js'
import { bringsToken, selectProtocol } from './routes/handshake/credentials.js'
import { maskingSerializers } from './routes/handshake/request-log.js'
import { addConstraint } from './routes/handshake/router-constraint.js'
import { healthRoutes } from './routes/health.js'
import { metricsRoute } from './routes/metrics.js'
import { nodesRoute } from './routes/nodes.js'
import { plainHttpRoute } from './routes/plain-http.js'
import { preflightRoutes } from './routes/preflight.js'
import { publishRoute } from './routes/publish.js'
import { revocationsRoutes } from './routes/revocations.js'
import { rulesRoutes } from './routes/rules.js'
import { SDK_ADDRESS, sdkRoute } from './routes/sdk.js'
import { sdkEmulationRoutes } from './routes/sdk-emulation.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Publishes, subscribes to websocket channels and database channels, and lists or closes connections. */
    pgws: Bridge
  }
}

/** How long a round of the sequencer may take, in milliseconds: one transaction may have published very much. */
const SEQUENCER_DEADLINE = 120_000

/** The minimum size of a key for HS256 (RFC 7518, section 3.2), in bytes. */
const SAFE_SECRET_BYTES = 32

/**
 * PostgreSQL's LISTEN/NOTIFY for browsers. The plugin serves websockets and event streams at `/:channel/:token` and
 * `/:token`, Centrifugo's client SDKs at `/connection/websocket`, and the control plane (`/health`, `/publish`,
 * `/channels`, `/connections`, `/nodes`, `/metrics`). It decorates the instance with `pgws`.
 *
 * Everything else that it registers stays in a scope of its own, so that it does not conflict with the host's plugins.
 * @throws InvalidOption, which names the option and what it expects. `ready()` rejects with ListenerUnavailable if the
 *   listener is not supervised and the database is unavailable, and with CannotListen, MissingGrant, SchemaTooNew,
 *   FunctionMissing or ChannelRefused for what must be mended first.
 * @example
 * await fastify.register(pgWebsockets, { dbUri: process.env.DATABASE_URL, jwtSecret: process.env.JWT_SECRET })
 */
async function plugin(fastify: FastifyInstance, options: PgWebsocketsOptions): Promise<void> {
  const resolved = resolveOptions(options)
  const { decorator } = resolved
  // Not hasDecorator(), because it also finds the decorator of an outer scope, with which this one does not conflict.
  if (Object.hasOwn(fastify, decorator)) {
    throw new errors.InvalidOption(
      'decorator',
      `is "${decorator}", but the instance already has a decorator of that name: if the plugin is registered more than once, give each registration its own decorator and prefix`
    )
  }
  const targets = readTargets(fastify, 'dbUri', resolved.dbUri)
  const listenerTargets =
    resolved.listenerUri === undefined ? targets : readTargets(fastify, 'listenerUri', resolved.listenerUri)
  const keys = resolved.jwtSecret === undefined ? [] : parseKeys(resolved.jwtSecret, resolved.jwtSecretBase64)
  if (keys.some(({ secret }) => secret !== undefined && secret.length < SAFE_SECRET_BYTES)) {
    fastify.log.warn(
      `jwtSecret (PGWS_JWT_SECRET) is shorter than ${SAFE_SECRET_BYTES} bytes: anyone with a token can guess it (RFC 7518, section 3.2)`
    )
  }
  addConstraint(fastify)

  await fastify.register(async (scope) => {
    const pool = await registerPool(scope, targets, { purpose: 'publisher', size: resolved.poolSize })
    const sequencing = { purpose: 'sequencer', size: 1, deadline: SEQUENCER_DEADLINE } as const
    const sequencerPool = await registerPool(scope, targets, sequencing)
    const revocations = new Revocations()
    const verifyToken = await registerJwt(scope, {
      ...resolved,
      keys,
      isRevoked: ({ claims }) => revocations.includes(identityOf(claims))
    })
    const pools = { pool, sequencerPool }
    const tokens = { verifyToken, revocations }
    const gateway = decorateGateway(fastify, resolved, listenerTargets, pools, tokens)
    endSessionsOnClose(fastify)
    const { bridge, metrics } = gateway
    if (resolved.metrics && resolved.metricsPort !== undefined) {
      serveMetrics(fastify, metrics, resolved.metricsPort)
    }

    await scope.register(
      async (routes) => {
        const paths = new Set<string>()
        routes.setErrorHandler(errorHandler)
        // The schemas describe what the handlers return. To compile them takes most of the time that a start takes, and a
        // host's compiler may be for schemas of another kind.
        routes.setSerializerCompiler(() => JSON.stringify)
        await routes.register(async (control) => {
          control.addHook('onRoute', (route) => {
            const { method, path, constraints } = route
            // A client may put a token into any address by mistake.
            route.logSerializers ??= maskingSerializers
            const plain = constraints === undefined || Object.keys(constraints).length === 0
            const ours = [method].flat().some((name) => name === 'GET' || name === 'POST')
            if (plain && ours) paths.add(path.slice(routes.prefix.length))
          })
          registerCors(control, resolved.allowedOrigins)
          // Before the limit: the page has many files, and they cost nothing.
          if (resolved.dashboard) {
            await control.register(dashboardRoutes, { documentation: resolved.documentation })
          }
          if (resolved.httpRateLimit !== undefined) {
            await control.register(fastifyRateLimit, { max: resolved.httpRateLimit, timeWindow: 60_000 })
          }
          if (resolved.documentation) await registerDocumentation(control)
          plainHttpRoute(control)
          healthRoutes(control, { gateway })
          if (resolved.metrics && resolved.metricsPort === undefined) metricsRoute(control, { metrics })
          channelsRoute(control, { bridge, verifyToken })
          nodesRoute(control, { gateway, verifyToken })
          connectionsRoutes(control, { gateway, verifyToken })
          revocationsRoutes(control, { gateway, verifyToken })
          rulesRoutes(control, { bridge, verifyToken })
          channelReadRoutes(control, { gateway, verifyToken })
          await control.register(publishRoute, {
            gateway,
            verifyToken,
            maxChannels: resolved.maxChannelsPerConnection
          })
          const named = [...paths]
          eventsRoute(control, { gateway, verifyToken })
          eventStreamRoutes(control, { gateway, verifyToken, options: resolved, paths: named })
          await control.register(sdkEmulationRoutes, { gateway, options: resolved })
          if (resolved.allowedOrigins !== undefined) preflightRoutes(control, paths)
        })
        await routes.register(async (channels) => {
          const named = [SDK_ADDRESS, ...resolved.endpoints.map(({ path }) => path)]
          const webSockets = registerWebsocket(channels, {
            maxPayload: resolved.maxMessageBytes,
            owns: ({ url = '', headers }) =>
              named.includes(pathOf(url)) || bringsToken(headers, url, resolved.tokenCookie),
            selectProtocol
          })
          channels.decorateRequest('pgwsAccess', null)
          sdkRoute(channels, { gateway, webSockets, options: resolved })
          audienceRoutes(channels, { gateway, verifyToken, webSockets, options: resolved })
          channelRoutes(channels, { gateway, verifyToken, webSockets, options: resolved, paths })
        })
      },
      { prefix: resolved.prefix }
    )
  })
}

function readTargets({ log }: FastifyInstance, option: string, uri: string) {
  try {
    return parseConninfo(uri, process.env, (names) =>
      log.info(`${option} (${variableOf(option)}): ignoring ${names.join(', ')}, which have no effect here`)
    )
  } catch (error) {
    throw new errors.InvalidOption(option, `(${variableOf(option)}): ${messageOf(error)}`)
  }
}

const registered = fp(plugin, { fastify: '5.x', name: 'fastify-pg-websockets' })

// `require` returns the plugin itself, so CommonJS finds its named import on it.
export const pgWebsockets = Object.assign(registered, { pgWebsockets: registered })

export default pgWebsockets

export type { Claims } from './lib/auth/index.js'
export type { Bridge, OutgoingMessage } from './lib/bridge.js'
export type { ChannelSummary } from './lib/channels/index.js'
export type { Closing, ConnectionFilter, ConnectionSummary } from './lib/clients/index.js'
export type { Delivery, Disconnected, NodeSummary, Scope } from './lib/cluster/index.js'
export type { AudienceEndpoint, PgWebsocketsOptions } from './lib/config/index.js'
export type { Health } from './lib/health.js'
export type { ListenerState } from './lib/listener/index.js'
export type { PresenceMember } from './lib/messages/index.js'
export type { Paging } from './lib/page.js'
export type { ChannelPresence } from './lib/presence/index.js'
// `require('fastify-pg-websockets')` returns the plugin itself
// (https://nodejs.org/api/modules.html#loading-ecmascript-modules-using-require, "module.exports").
export { pgWebsockets as 'module.exports' }
