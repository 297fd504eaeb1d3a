import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { WebSocketServer } from 'ws'
import type { AcceptedSocket } from '../lib/transports/index.js'
import { takeUpgrade, UpgradeDispatcher } from './upgrades.js'

/** How long an upgrade may wait where Fastify has no `requestTimeout`, in milliseconds. */
const HANDSHAKE_TIMEOUT = 10_000

/** Accepts the websockets of this scope. */
export interface WebSockets {
  /**
   * Answers an upgrade with 101, or with what is wrong with it.
   * @param use given the open socket; it handles the errors of it
   */
  accept(request: FastifyRequest, reply: FastifyReply, use: (accepted: AcceptedSocket) => void): void
}

export interface WebsocketOptions {
  /** The largest message that a socket may send, in bytes (close code 1009). */
  maxPayload: number
  /** Whether an upgrade is surely meant for us; we have no prefix that tells. */
  owns: (request: IncomingMessage) => boolean
  /** See routes/credentials.ts. */
  selectProtocol: (offered: Set<string>) => string | false
}

/**
 * Makes websockets possible in this scope, beside whoever else listens for upgrades: the host's @fastify/websocket,
 * other websocket servers, and proxies.
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

/** Where an operator has turned on permessage-deflate for the host's own sockets, ours have it, too. */
function hostsCompression(fastify: FastifyInstance) {
  if (!fastify.hasDecorator('websocketServer')) return false
  const { websocketServer } = fastify as FastifyInstance & { websocketServer: WebSocketServer }
  return websocketServer.options.perMessageDeflate ?? false
}
