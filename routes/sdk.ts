import type { FastifyInstance } from 'fastify'
import { isAllowedOrigin, type ResolvedOptions } from '../lib/config/index.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import { SDK_FORMATS } from '../lib/protocols/centrifugo/index.js'
import { upgradeOf } from '../plugins/upgrades.js'
import type { WebSockets } from '../plugins/websocket.js'
import { remoteOf } from './remote.js'
import { encodingOf } from './sdk-encoding.js'
import { webSocketRoute } from './websocket-route.js'

/** The websocket address of Centrifugo's client SDKs. */
export const SDK_ADDRESS = '/connection/websocket'

export interface SdkRoutesOptions {
  gateway: Gateway
  webSockets: WebSockets
  options: Pick<ResolvedOptions, 'allowedOrigins'>
}

/**
 * `/connection/websocket`, the address of Centrifugo's client SDKs. The token is in their first command, not in the
 * handshake: after a refused handshake they would retry forever.
 */
export function sdkRoute(fastify: FastifyInstance, { gateway, webSockets, options }: SdkRoutesOptions): void {
  webSocketRoute(fastify, {
    url: SDK_ADDRESS,
    gateway,
    transport: 'sdk-websocket',
    webSockets,
    describeRequest: ({ ip }) => ({ url: fastify.prefix + SDK_ADDRESS, ip }),
    async admit(request) {
      if (gateway.closing) throw new errors.ShuttingDown()
      if (!isAllowedOrigin(request.headers.origin, options.allowedOrigins)) {
        throw new errors.OriginNotAllowed()
      }
      // The Python SDK sends an empty header, which `ws` refuses.
      const { headers } = request.raw
      if (headers['sec-websocket-protocol'] === '') delete headers['sec-websocket-protocol']
      await gateway.admit(upgradeOf(request.raw)!.socket, request.ip)
    },
    connect(accepted, request) {
      const encoding = encodingOf(request, accepted.webSocket.protocol)
      gateway.protocols.centrifugo.connect(accepted, SDK_FORMATS.websocket[encoding], remoteOf(request))
    }
  })
}
