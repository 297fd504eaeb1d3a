import type { FastifyInstance } from 'fastify'
import { upgradeOf } from '../plugins/upgrades.js'
import type { WebSockets } from '../plugins/websocket.js'
import { handshake } from './handshake/admit.js'
import { ADDRESSES, type ChannelRoutesOptions } from './handshake/channel-addresses.js'
import { webSocketRoute } from './websocket-route.js'

/**
 * The websocket routes `/:channel/:token`, `/:token` and `/`.
 *
 * They are told from a host's routes of the same shape (`/:slug`) by a constraint on the `Upgrade` header. Our
 * own HTTP addresses get a websocket twin each, so that a channel may be named like them. Parameters are read
 * from the URL itself, because a router's parameter may not be longer than the host's `maxParamLength`; what is
 * longer falls through to the wildcard.
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
      webSockets,
      describeRequest,
      admit: (request) => admit(request, upgradeOf(request.raw)!.socket),
      connect: (accepted, request) =>
        gateway.protocols.webSockets.connect(
          accepted,
          request.pgwsAccess!,
          request.ip,
          joinOptionsOf(request)
        )
    })
  }
}
