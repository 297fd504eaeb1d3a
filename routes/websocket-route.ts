import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import type { TransportName } from '../lib/clients/index.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import type { AcceptedSocket } from '../lib/transports/index.js'
import { endSoon, upgradeOf } from '../plugins/upgrades.js'
import type { WebSockets } from '../plugins/websocket.js'
import { refused } from './handshake/admit.js'
import { CONSTRAINT } from './handshake/router-constraint.js'
import { takeOver } from './handshake/take-over.js'
import { HIDDEN } from './schemas.js'

export interface WebSocketRoute {
  /** Below the prefix. */
  url: string
  gateway: Gateway
  /** What a refused client would have been connected with. */
  transport: TransportName
  webSockets: WebSockets
  /** Describes a request for the log, without its token. */
  describeRequest: (request: FastifyRequest) => object
  /** Admits the client, or throws. */
  admit: (request: FastifyRequest) => Promise<void>
  /** Takes the open socket. */
  connect: (accepted: AcceptedSocket, request: FastifyRequest) => void
}

/** A route for websocket upgrades, dispatched by this plugin or by the host's @fastify/websocket. */
export function webSocketRoute(
  fastify: FastifyInstance,
  { url, gateway, transport, webSockets, describeRequest, admit, connect }: WebSocketRoute
): void {
  const log = { error: fastify.log.error.bind(fastify.log), describeRequest }
  fastify.route({
    method: 'GET',
    url,
    exposeHeadRoute: false,
    constraints: { [CONSTRAINT]: 'upgrade' },
    schema: HIDDEN,
    // There is one log line for each websocket that is opened (lib/clients/clients.ts) or refused (onError).
    logLevel: 'warn',
    logSerializers: { req: describeRequest },
    onError: refused(gateway, transport, describeRequest),
    async preValidation(request) {
      if (upgradeOf(request.raw) === undefined) throw new errors.UpgradeRequired()
      await admit(request)
    },
    // Not in the handler, because the host's @fastify/websocket replaces it.
    async preHandler(request, reply) {
      const { raw } = request
      reply.hijack()
      takeOver(request, raw.socket, log, () => {
        webSockets.accept(request, reply, (accepted) => {
          takeOver(request, raw.socket, log, () => connect(accepted, request))
        })
      })
    },
    // Node.js reads no more requests from the connection.
    async onResponse({ raw }) {
      const upgrade = upgradeOf(raw)
      if (upgrade !== undefined) endSoon(upgrade.socket)
    },
    handler() {
      throw new errors.UpgradeRequired()
    }
  } satisfies RouteOptions)
}
