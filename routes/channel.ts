import type { FastifyInstance } from 'fastify'
import { upgradeOf } from '../plugins/upgrades.js'
import type { WebSockets } from '../plugins/websocket.js'
import { handshake } from './handshake/admit.js'
import { ADDRESSES, type ChannelRoutesOptions } from './handshake/channel-addresses.js'
import { remoteOf } from './remote.js'
import { webSocketRoute } from './websocket-route.js'

/**
 * The websocket routes `/:channel/:token`, `/:token` and `/`.
 *
 * A constraint on the `Upgrade` header distinguishes them from routes of the host with the same shape (`/:slug`). The plugin's
 * HTTP addresses have a websocket route, too, so that a channel may have the same name. Parameters are read from the URL,
 * because the router limits their length to the host's `maxParamLength`. Longer ones are routed to the wildcard.
 */
export function channelRoutes(
  fastify: FastifyInstance,
  { gateway, verifyToken, options, paths, webSockets }: ChannelRoutesOptions & { webSockets: WebSockets }
): void {
  const { admit, describeRequest, joinOptionsOf } = handshake(fastify, { gateway, verifyToken, options })
  for (const url of new Set([...ADDRESSES, ...paths])) {
    webSocketRoute(fastify, {
      url,
      gateway,
      transport: 'websocket',
      webSockets,
      describeRequest,
      admit: (request) => admit(request, upgradeOf(request.raw)!.socket),
      connect: (accepted, request) =>
        gateway.protocols.webSockets.connect(
          accepted,
          request.pgwsAccess!,
          remoteOf(request),
          joinOptionsOf(request)
        )
    })
  }
}
