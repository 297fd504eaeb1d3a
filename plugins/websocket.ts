import { EventEmitter } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import fastifyWebsocket from '@fastify/websocket'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { WebSocket } from 'ws'

/** How many handshakes one turn of the event loop takes: a crowd that comes at once must not hold up deliveries. */
const UPGRADES_A_TURN = 10

const UNAVAILABLE = 'HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'

function ignore(): void {}

/**
 * Makes `websocket: true` routes possible in this scope, whichever of host and plugin comes first. Where the
 * host has registered @fastify/websocket before us, its registration serves us too. Otherwise we register it
 * for our scope alone, so that the host still can for itself; then two dispatchers would route each upgrade,
 * so ours takes only what no other has taken by the time that it is asked.
 * @param maxPayload the largest message that a socket may send, in bytes (close code 1009)
 * @param closing whether the server has begun to end
 */
export async function registerWebsocket(
  fastify: FastifyInstance,
  { maxPayload, closing }: { maxPayload: number; closing: () => boolean }
): Promise<void> {
  if (fastify.hasDecorator('websocketServer')) return
  const upgrades = new EventEmitter()
  await fastify.register(fastifyWebsocket, {
    options: { server: upgrades as never, perMessageDeflate: false, maxPayload },
    // Closing our sockets is our own business (plugins/bridge.ts).
    preClose: (done) => done()
  })

  const waiting: Parameters<typeof onUpgrade>[] = []

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    // Node.js has taken its own listeners off the socket, and an error that nobody hears would end the process.
    socket.on('error', ignore)
    if (waiting.push([request, socket, head]) === 1) setImmediate(admit)
  }

  function admit(): void {
    for (const [request, socket, head] of waiting.splice(0, UPGRADES_A_TURN)) {
      socket.off('error', ignore)
      // A dispatcher that came before us has given the socket a response, or has ended it.
      const taken = (socket as Duplex & { _httpMessage?: ServerResponse | null })._httpMessage
      if (taken || socket.destroyed || socket.writableEnded) continue
      if (closing()) {
        // Fastify's own answer would leave the socket open, and the server waits for it.
        socket.on('error', ignore).end(UNAVAILABLE, () => socket.destroy())
        continue
      }
      upgrades.emit('upgrade', request, socket, head)
    }
    if (waiting.length > 0) setImmediate(admit)
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
