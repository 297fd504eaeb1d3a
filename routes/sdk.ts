import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import type { WebSocket } from 'ws'
import type { Bridge } from '../lib/bridge.js'
import { errors } from '../lib/errors.js'
import type { ResolvedOptions } from '../lib/options.js'
import { isAllowedOrigin } from '../lib/origins.js'
import { releaseRequest } from '../plugins/websocket.js'
import { CONSTRAINT, refused, takePlace } from './channel.js'

export interface SdkRoutesOptions {
  bridge: Bridge
  options: Pick<ResolvedOptions, 'allowedOrigins'>
}

/**
 * `/connection/websocket`, where Centrifugo's client SDKs come to. Who they are they say in their first command: a
 * refused upgrade would have them come back for ever.
 */
export function sdkRoute(fastify: FastifyInstance, { bridge, options }: SdkRoutesOptions): void {
  fastify.route({
    method: 'GET',
    url: '/connection/websocket',
    websocket: true,
    constraints: { [CONSTRAINT]: 'upgrade' },
    schema: { hide: true } as object,
    logLevel: 'warn',
    onError: refused(fastify, bridge, ({ ip }) => ({ url: `${fastify.prefix}/connection/websocket`, ip })),
    async preValidation(request: FastifyRequest) {
      if (!request.ws) throw new errors.UpgradeRequired()
      if (bridge.closing) throw new errors.ShuttingDown()
      if (!isAllowedOrigin(request.headers.origin, options.allowedOrigins)) {
        throw new errors.OriginNotAllowed()
      }
      // Python's SDK sends an empty one, which `ws` refuses.
      const { headers } = request.raw
      if (headers['sec-websocket-protocol'] === '') delete headers['sec-websocket-protocol']
      takePlace(bridge, request)
    },
    handler: ((webSocket: WebSocket, request: FastifyRequest) => {
      const { ip } = request
      releaseRequest(webSocket, request)
      bridge.connectSdk(webSocket, ip)
    }) as never
  } as RouteOptions)
}
