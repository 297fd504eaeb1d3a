import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { WebSocketServer } from 'ws'
import type { AcceptedSocket } from '../lib/transports/index.js'
import { takeUpgrade, UpgradeDispatcher } from './upgrades.js'

/** How long an upgrade may wait if Fastify has no `requestTimeout`, in milliseconds. */
const HANDSHAKE_TIMEOUT = 10_000

/** Accepts the websockets of this scope. */
export interface WebSockets {
  /**
   * Answers an upgrade with 101, or with an error.
   * @param use is called with the open websocket, and handles its errors
   */
  accept(request: FastifyRequest, reply: FastifyReply, use: (accepted: AcceptedSocket) => void): void
}

export interface WebsocketOptions {
  /** The largest message that a client may send, in bytes. A larger one closes the websocket with 1009. */
  maxPayload: number
  /** Without a prefix: whether an upgrade is certainly meant for this plugin. */
  owns: (request: IncomingMessage) => boolean
  /** See routes/handshake/credentials.ts. */
  selectProtocol: (offered: Set<string>) => string | false
}

/**
 * Enables websockets in this scope, without conflicts with others that listen for upgrades: the host's
 * @fastify/websocket, other websocket servers, and proxies.
 */
export function registerWebsocket(
  fastify: FastifyInstance,
  { maxPayload, owns, selectProtocol }: WebsocketOptions
): WebSockets {
  const { server, log } = fastify
  const prefix = fastify.prefix.replace(/\/$/, '')
  const webSockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    maxPayload,
    perMessageDeflate: hostsCompression(fastify),
    handleProtocols: selectProtocol
  })
  const dispatcher = UpgradeDispatcher.of(server, server.requestTimeout || HANDSHAKE_TIMEOUT)
  const scope = {
    covers: ({ url = '' }: IncomingMessage) => isBelow(prefix, url),
    owns: (request: IncomingMessage) => (prefix === '' ? owns(request) : isBelow(prefix, request.url ?? '')),
    route: fastify.routing,
    onError: (error: unknown) => log.error({ err: error }, 'could not route an upgrade')
  }
  fastify.addHook('onReady', async () => dispatcher.add(scope))
  fastify.addHook('preClose', async () => dispatcher.close())
  fastify.addHook('onClose', async () => dispatcher.delete(scope))

  return {
    accept(request, reply, use) {
      const { socket, head } = takeUpgrade(request.raw)
      webSockets.handleUpgrade(request.raw, socket, head, (webSocket) => {
        // An open socket would keep the request and its answer in memory for as long as it lives.
        reply.raw.detachSocket(request.raw.socket)
        use({ webSocket, socket })
      })
    }
  }
}

/** Whether a URL's path is below a prefix, which begins with a slash or is empty. */
function isBelow(prefix: string, url: string): boolean {
  return url.startsWith(prefix) && (prefix === '' || /^(?:$|[/?#])/.test(url.slice(prefix.length)))
}

/** The permessage-deflate option of the host's @fastify/websocket, which applies to this plugin's websockets, too. */
function hostsCompression(fastify: FastifyInstance) {
  if (!fastify.hasDecorator('websocketServer')) return false
  // The types of @fastify/websocket are not loaded, because only the host may depend on it.
  const { websocketServer } = fastify as FastifyInstance & { websocketServer: WebSocketServer }
  return websocketServer.options.perMessageDeflate ?? false
}
