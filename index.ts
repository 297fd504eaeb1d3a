import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Bridge } from './lib/bridge.js'
import { parseConninfo } from './lib/conninfo.js'
import { errors, messageOf } from './lib/errors.js'
import { parseKeys } from './lib/keys.js'
import { type PgWebsocketsOptions, resolveOptions } from './lib/options.js'
import { registerDocumentation } from './plugins/documentation.js'
import { registerJwt } from './plugins/jwt.js'
import { decorateBridge } from './plugins/listener.js'
import { registerPool } from './plugins/postgres.js'
import { registerWebsocket } from './plugins/websocket.js'
import { addConstraint, channelRoutes, plainHttpRoute } from './routes/channel.js'
import { channelsRoute } from './routes/channels.js'
import { errorHandler } from './routes/error-handler.js'
import { healthRoutes } from './routes/health.js'
import { publishRoute } from './routes/publish.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Listen to database channels and websocket channels, publish, and see what is connected. */
    pgws: Bridge
  }
}

/**
 * PostgreSQL's LISTEN/NOTIFY for browsers: websockets on `/:channel/:token` and `/:token`, `GET /health`,
 * `GET /channels`, `POST /publish`, and the decorator `fastify.pgws`.
 *
 * All that it registers stays in a scope of its own, beside the host's plugins of the same kind; only `pgws`
 * is decorated on the host.
 * @throws InvalidOption that names the option and what it expects
 */
async function plugin(fastify: FastifyInstance, options: PgWebsocketsOptions): Promise<void> {
  const resolved = resolveOptions(options)
  const targets = readTargets(resolved.dbUri)
  const keys = parseKeys(resolved.jwtSecret, resolved.jwtSecretBase64)
  addConstraint(fastify)

  await fastify.register(async (scope) => {
    const query = await registerPool(scope, targets, resolved.poolSize)
    const verifyToken = await registerJwt(scope, keys)
    const bridge = decorateBridge(fastify, resolved, targets, query)

    await scope.register(
      async (routes) => {
        const paths = new Set<string>()
        routes.setErrorHandler(errorHandler)
        await routes.register(async (control) => {
          control.addHook('onRoute', ({ method, path }) => {
            if (method === 'GET' || method === 'POST') paths.add(path.slice(routes.prefix.length))
          })
          if (resolved.documentation) await registerDocumentation(control)
          healthRoutes(control, { bridge })
          channelsRoute(control, { bridge, verifyToken })
          publishRoute(control, { bridge, verifyToken })
          plainHttpRoute(control)
        })
        await routes.register(async (channels) => {
          await registerWebsocket(channels)
          channelRoutes(channels, { bridge, verifyToken, paths })
        })
      },
      { prefix: resolved.prefix }
    )
  })
}

function readTargets(dbUri: string) {
  try {
    return parseConninfo(dbUri)
  } catch (error) {
    throw new errors.InvalidOption('dbUri', `(PGWS_DB_URI): ${messageOf(error)}`)
  }
}

export const pgWebsockets = fp(plugin, { fastify: '5.x', name: 'fastify-pg-websockets' })

export default pgWebsockets

export type { Bridge, Health, OutgoingMessage } from './lib/bridge.js'
export type { Claims } from './lib/claims.js'
export type { ChannelSummary } from './lib/hub.js'
export type { ListenerState } from './lib/listener.js'
export type { PgWebsocketsOptions } from './lib/options.js'
// `require('fastify-pg-websockets')` gives the plugin itself (Node.js >= 20.19, "module.exports" export name).
export { pgWebsockets as 'module.exports' }
