import type { EventEmitter } from 'node:events'
import { type IncomingMessage, type Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** How many handshakes are processed in one turn of the event loop, so that deliveries continue in between. */
const UPGRADES_A_TURN = 10

/** How often to check whether earlier requests of a connection have been answered, in milliseconds. */
const POLL_INTERVAL = 20

/** How long they may take during shutdown, in milliseconds. */
const CLOSING_TIMEOUT = 1000

/** Node.js keeps this many header lines of a request (`server.maxHeadersCount`). If there are more, some are lost. */
const MAX_HEADER_LINES = 1000

/** The headers of an upgrade (RFC 9110, section 7.8), including that of HTTP/2 (RFC 7540, section 3.2.1). */
const UPGRADE_HEADERS = new Set(['connection', 'keep-alive', 'upgrade', 'http2-settings'])

const TOO_MANY_HEADERS =
  'HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'

/** The stream of an upgrade. A network socket has these members; a stream that a test injects may lack them. */
type UpgradeStream = Duplex & Partial<Pick<Socket, 'destroySoon' | 'setTimeout' | 'bytesWritten'>>

/** An upgrade request, as Node.js emits it. */
export interface Upgrade {
  socket: Duplex
  /** The bytes that have arrived after the request. */
  head: Buffer
}

/** The upgrades that one registration of the plugin answers. */
export interface UpgradeScope {
  /** Whether the address of a request is below its prefix. */
  covers(request: IncomingMessage): boolean
  /** Whether a request is certainly meant for it, so that it is answered even if others listen for upgrades, too. */
  owns(request: IncomingMessage): boolean
  /** Answers a request. It is the router of the Fastify instance. */
  route(request: IncomingMessage, response: ServerResponse): void
  onError(error: unknown): void
}

interface Waiting {
  request: IncomingMessage
  socket: Duplex
  /** When the connection is closed, in milliseconds since the epoch. */
  deadline: number
  then: () => void
}

const upgrades = new WeakMap<IncomingMessage, Upgrade>()
const dispatchers = new WeakMap<EventEmitter, UpgradeDispatcher>()

function ignore(): void {}

/** The upgrade of a request; undefined if the request is not an upgrade. */
export function upgradeOf(request: IncomingMessage): Upgrade | undefined {
  return upgrades.get(request)
}

/** Takes over an upgrade. The caller handles the errors of the socket from here on. */
export function takeUpgrade(request: IncomingMessage): Upgrade {
  const upgrade = upgrades.get(request)!
  upgrades.delete(request)
  upgrade.socket.off('error', ignore)
  return upgrade
}

/**
 * Closes a connection when everything has been sent. After an upgrade request, Node.js reads no more requests from a
 * connection.
 */
export function endSoon(socket: UpgradeStream): void {
  if (socket.destroySoon) socket.destroySoon()
  else socket.end()
}

/**
 * The upgrades of one HTTP server. As soon as its event `upgrade` has a listener, Node.js reads no more requests from
 * a connection that requests an upgrade, whatever the protocol, and removes its own listeners from the socket, including the
 * one for errors. So every upgrade must be answered:
 * - Websockets at the plugin's addresses are routed, after earlier requests on the same connection.
 * - Other upgrades are left to the other listeners, if there are any, and closed if none of them takes them.
 * - If there are no other listeners, they are ordinary requests, as they would be without the plugin (RFC 9110, section 7.8).
 *
 * Other listeners must not see the plugin's upgrades: a `ws` server with a path answers 400 to all other paths, and Socket.IO
 * closes a connection that has not been answered within a second. An event cannot be hidden from its other listeners, so it is
 * intercepted before it is emitted.
 */
export class UpgradeDispatcher {
  readonly #server: Server
  readonly #timeout: number
  readonly #scopes = new Set<UpgradeScope>()
  /** The plugin's upgrades that wait to be routed. */
  #queue: (() => void)[] = []
  /** Upgrades that wait for earlier requests on their connection. */
  readonly #waiting = new Set<Waiting>()
  /** Upgrades that were left to other listeners, with a function that closes them if no listener takes them. */
  readonly #left = new Map<Duplex, () => void>()
  #poll: NodeJS.Timeout | undefined
  #closing = false

  /**
   * The dispatcher of a server. There is only one, however often the plugin is registered.
   * @param timeout how long an upgrade may wait, in milliseconds
   */
  static of(server: Server, timeout: number): UpgradeDispatcher {
    const dispatcher = dispatchers.get(server) ?? new UpgradeDispatcher(server, timeout)
    dispatchers.set(server, dispatcher)
    return dispatcher
  }

  private constructor(server: Server, timeout: number) {
    this.#server = server
    this.#timeout = timeout
    const emit = server.emit
    server.emit = (...event: unknown[]): boolean => {
      // The arguments are those of `upgrade` only if the name is, and only then they are used. All others are passed on.
      const [name, request, socket, head] = event as ['upgrade', IncomingMessage, Duplex, Buffer]
      return (name === 'upgrade' && this.#take(request, socket, head)) || emit.apply(server, event as never)
    }
  }

  add(scope: UpgradeScope): void {
    // Node.js emits upgrades only if there is a listener.
    if (this.#scopes.size === 0) this.#server.on('upgrade', ignore)
    this.#scopes.add(scope)
  }

  delete(scope: UpgradeScope): void {
    this.#scopes.delete(scope)
    if (this.#scopes.size === 0) this.#server.off('upgrade', ignore)
  }

  /** Shortens all waits, which would delay the shutdown. */
  close(): void {
    this.#closing = true
    const deadline = Date.now() + CLOSING_TIMEOUT
    for (const waiting of this.#waiting) waiting.deadline = Math.min(waiting.deadline, deadline)
    for (const end of [...this.#left.values()]) end()
  }

  /** @returns false if the upgrade is left to others */
  #take(request: IncomingMessage, socket: UpgradeStream, head: Buffer): boolean {
    if (this.#scopes.size === 0) return false
    // Without a listener, an error would end the process.
    socket.on('error', ignore)
    upgrades.set(request, { socket, head })
    // Injected requests of tests have no network socket. Any duplex stream serves as one.
    request.socket ??= socket as Socket
    const alone = this.#server.listenerCount('upgrade') === 1
    const isHandshake = isWebSocket(request)
    const scope = [...this.#scopes].find(
      (one) => isHandshake && (alone ? one.covers(request) : one.owns(request))
    )
    if (scope !== undefined) {
      const answer = (response: ServerResponse) =>
        this.#enqueue(() => route(scope, request, socket, response))
      const response = assignedTo(socket, request)
      if (response !== undefined) answer(response)
      else this.#whenFree(request, socket, false, () => answer(assignedTo(socket, request)!))
      return true
    }
    const free = isFree(request, socket)
    if (!alone) {
      const { bytesWritten } = socket
      this.#leave(socket, () => !isRead(socket) && (!free || socket.bytesWritten === bytesWritten))
      return false
    } else if (request.rawHeaders.length >= 2 * MAX_HEADER_LINES) {
      this.#whenFree(request, socket, free, () => {
        socket.write(TOO_MANY_HEADERS)
        endSoon(socket)
      })
    } else {
      // At once, because a stream that has ended accepts no unshift().
      socket.unshift(Buffer.concat([plainHead(request), head]))
      this.#whenFree(request, socket, free, () => this.#takeBack(socket))
    }
    return true
  }

  /** Gives a connection back to the HTTP server. */
  #takeBack(socket: UpgradeStream): void {
    socket.setTimeout?.(this.#server.timeout)
    this.#server.emit('encrypted' in socket ? 'secureConnection' : 'connection', socket)
  }

  /** Calls back when all earlier requests of a connection have been answered. Closes it if that takes too long. */
  #whenFree(request: IncomingMessage, socket: Duplex, free: boolean, then: () => void): void {
    if (free) {
      then()
      return
    }
    const timeout = this.#closing ? CLOSING_TIMEOUT : this.#timeout
    this.#waiting.add({ request, socket, deadline: Date.now() + timeout, then })
    this.#poll ??= setInterval(() => this.#checkWaiting(), POLL_INTERVAL).unref()
  }

  #checkWaiting(): void {
    for (const waiting of this.#waiting) {
      const { request, socket, deadline, then } = waiting
      const free = isFree(request, socket)
      const ended = socket.destroyed || socket.writableEnded
      if (!free && !ended && Date.now() < deadline) continue
      this.#waiting.delete(waiting)
      if (free) then()
      else if (!ended) socket.destroy()
    }
    if (this.#waiting.size > 0) return
    clearInterval(this.#poll)
    this.#poll = undefined
  }

  #enqueue(answer: () => void): void {
    if (this.#queue.push(answer) === 1) setImmediate(() => this.#answerSome())
  }

  #answerSome(): void {
    for (const answer of this.#queue.splice(0, UPGRADES_A_TURN)) answer()
    if (this.#queue.length > 0) setImmediate(() => this.#answerSome())
  }

  /** Leaves a connection to other listeners, and closes it if none of them takes it. */
  #leave(socket: Duplex, isUntaken: () => boolean): void {
    const end = () => {
      forget()
      if (isUntaken()) socket.destroy()
    }
    const timer = setTimeout(end, this.#closing ? 0 : this.#timeout).unref()
    const forget = () => {
      clearTimeout(timer)
      this.#left.delete(socket)
      socket.off('close', forget)
    }
    this.#left.set(socket, end)
    socket.on('close', forget)
  }
}

/** Whether a request is a websocket handshake (RFC 6455, section 4.2.1). */
function isWebSocket({ method, headers, httpVersion }: IncomingMessage): boolean {
  return method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket' && httpVersion === '1.1'
}

function route(
  scope: UpgradeScope,
  request: IncomingMessage,
  socket: Duplex,
  response: ServerResponse
): void {
  if (socket.destroyed) return
  response.setHeader('connection', 'close')
  response.once('finish', () => endSoon(socket))
  try {
    scope.route(request, response)
  } catch (error) {
    scope.onError(error)
    socket.destroy()
  }
}

/** Whether no response is assigned to a connection. */
function isFree(request: IncomingMessage, socket: Duplex): boolean {
  const probe = assignedTo(socket, request)
  // Node.js accepts any duplex stream here, but its types require a network socket.
  probe?.detachSocket(socket as Socket)
  return probe !== undefined
}

/**
 * Creates the response to a request, and assigns it to the connection.
 * @returns undefined if the connection ends, or if another response is assigned to it, because Node.js refuses a second one
 */
function assignedTo(socket: Duplex, request: IncomingMessage): ServerResponse | undefined {
  if (socket.destroyed || socket.writableEnded) return undefined
  const response = new ServerResponse(request)
  try {
    // As in isFree.
    response.assignSocket(socket as Socket)
    return response
  } catch {
    return undefined
  }
}

/** Whether another listener has taken a connection: it reads it then. */
function isRead(socket: Duplex): boolean {
  return socket.listenerCount('data') > 0 || socket.listenerCount('readable') > 0
}

/** The request line and headers without the upgrade. The connection is closed after the response. */
function plainHead({ method, url, httpVersion, rawHeaders }: IncomingMessage): Buffer {
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const [name, value] = [rawHeaders[i]!, rawHeaders[i + 1]!]
    if (!UPGRADE_HEADERS.has(name.toLowerCase())) head += `${name}: ${value}\r\n`
  }
  return Buffer.from(`${head}Connection: close\r\n\r\n`, 'latin1')
}
