import type { FastifyInstance } from 'fastify'
import { isAllowedOrigin, type ResolvedOptions } from '../lib/config/index.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import { upgradeOf } from '../plugins/upgrades.js'
import type { WebSockets } from '../plugins/websocket.js'
import { webSocketRoute } from './websocket-route.js'

/** Where Centrifugo's client SDKs come to with a websocket. */
export const SDK_ADDRESS = '/connection/websocket'

export interface SdkRoutesOptions {
  gateway: Gateway
  webSockets: WebSockets
  options: Pick<ResolvedOptions, 'allowedOrigins'>
}

/**
 * `/connection/websocket`, where Centrifugo's client SDKs come to. Who they are they say in their first command: a
 * refused upgrade would have them come back for ever.
 */
export function sdkRoute(fastify: FastifyInstance, { gateway, webSockets, options }: SdkRoutesOptions): void {
  webSocketRoute(fastify, {
    url: SDK_ADDRESS,
    gateway,
    webSockets,
    describeRequest: ({ ip }) => ({ url: fastify.prefix + SDK_ADDRESS, ip }),
    async admit(request) {
      if (gateway.closing) throw new errors.ShuttingDown()
      if (!isAllowedOrigin(request.headers.origin, options.allowedOrigins)) {
        throw new errors.OriginNotAllowed()
      }
      // Python's SDK sends an empty one, which `ws` refuses.
      const { headers } = request.raw
      if (headers['sec-websocket-protocol'] === '') delete headers['sec-websocket-protocol']
      await gateway.admit(upgradeOf(request.raw)!.socket, request.ip)
    },
    connect: (accepted, request) => gateway.protocols.centrifugo.connect(accepted, request.ip)
  })
}
