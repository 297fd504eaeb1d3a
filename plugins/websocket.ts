import { EventEmitter } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import fastifyWebsocket from '@fastify/websocket'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { WebSocket } from 'ws'

/**
 * Makes `websocket: true` routes possible in this scope, whichever of host and plugin comes first. Where the
 * host has registered @fastify/websocket before us, its registration serves us too. Otherwise we register it
 * for our scope alone, so that the host still can for itself; then two dispatchers would route each upgrade,
 * so ours takes only what no other has taken by the time that it is asked.
 */
export async function registerWebsocket(fastify: FastifyInstance): Promise<void> {
  if (fastify.hasDecorator('websocketServer')) return
  const upgrades = new EventEmitter()
  await fastify.register(fastifyWebsocket, {
    options: { server: upgrades as never, perMessageDeflate: false },
    // Closing our sockets is our own business (plugins/bridge.ts).
    preClose: (done) => done()
  })

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    // A dispatcher that came before us has given the socket a response, or has ended it.
    const taken = (socket as Duplex & { _httpMessage?: ServerResponse | null })._httpMessage
    if (taken || socket.destroyed || socket.writableEnded) return
    upgrades.emit('upgrade', request, socket, head)
  }
  // Last, so that a host that registers @fastify/websocket after us is asked before us.
  fastify.addHook('onReady', async () => {
    fastify.server.on('upgrade', onUpgrade)
  })
  fastify.addHook('onClose', async () => {
    fastify.server.off('upgrade', onUpgrade)
  })
}

/**
 * Lets go of the HTTP request and its answer, which an open socket would keep in memory for as long as it lives:
 * @fastify/websocket's error listener and the socket's own link to its response hold them.
 * @param webSocket a socket that has just been accepted; whoever takes it adds an error listener of its own
 */
export function releaseRequest(webSocket: WebSocket, request: FastifyRequest): void {
  webSocket.removeAllListeners('error')
  const { socket } = request.raw
  ;(socket as Duplex & { _httpMessage?: ServerResponse | null })._httpMessage?.detachSocket(socket)
  // A host's own preClose hook would close the sockets of its server without a code.
  request.server.websocketServer.clients.delete(webSocket)
}
