import type { EventEmitter } from 'node:events'
import { type IncomingMessage, type Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** How many handshakes one turn of the event loop takes: a crowd that comes at once must not hold up deliveries. */
const UPGRADES_A_TURN = 10

/** How often to look whether earlier requests of a connection have been answered, in milliseconds. */
const POLL_INTERVAL = 20

/** How long they may take once the server has begun to end, in milliseconds. */
const CLOSING_PATIENCE = 1000

/** Node.js keeps so many header lines of a request (`server.maxHeadersCount`); of more, we would put back a part. */
const MAX_HEADER_LINES = 1000

/** RFC 9110, section 7.8; HTTP/2's (RFC 7540, section 3.2.1) goes with it. */
const UPGRADE_HEADERS = new Set(['connection', 'keep-alive', 'upgrade', 'http2-settings'])

const TOO_MANY_HEADERS =
  'HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'

/** A request for an upgrade, as Node.js hands it over. */
export interface Upgrade {
  socket: Duplex
  /** What has come behind the request already. */
  head: Buffer
}

/** What one registration of the plugin answers. */
export interface UpgradeScope {
  /** Whether a request's address is below its prefix. */
  covers(request: IncomingMessage): boolean
  /** Whether a request is surely meant for it, so that it is answered although others listen for upgrades, too. */
  owns(request: IncomingMessage): boolean
  /** Answers a request: the router of its Fastify instance. */
  route(request: IncomingMessage, response: ServerResponse): void
  onError(error: unknown): void
}

interface Waiting {
  request: IncomingMessage
  socket: Duplex
  /** Milliseconds since the epoch: then the connection is ended. */
  deadline: number
  then: () => void
}

const upgrades = new WeakMap<IncomingMessage, Upgrade>()
const dispatchers = new WeakMap<EventEmitter, UpgradeDispatcher>()

function ignore(): void {}

/** Whether a request has come as an upgrade, whoever has dispatched it. */
export function upgradeOf(request: IncomingMessage): Upgrade | undefined {
  return upgrades.get(request)
}

/** Takes an upgrade over: whoever calls it handles the errors of the socket from here on. */
export function takeUpgrade(request: IncomingMessage): Upgrade {
  const upgrade = upgrades.get(request)!
  upgrades.delete(request)
  upgrade.socket.off('error', ignore)
  return upgrade
}

/**
 * Ends a connection when what was written has been sent. Once a connection has asked for an upgrade, Node.js reads no
 * more requests from it.
 */
export function endSoon(socket: Duplex): void {
  // A socket of the network has it; what a test injects has not.
  if ('destroySoon' in socket) (socket as Socket).destroySoon()
  else socket.end()
}

/**
 * The upgrades of one HTTP server. As soon as anybody listens to its event `upgrade`, Node.js reads no more requests
 * from a connection that asks for one, whatever the protocol, and takes its own listeners off the socket, the one for
 * errors, too. So each upgrade needs somebody who answers it:
 * - websockets at our addresses are routed, after what was asked for on the same connection before;
 * - what is not ours is left alone where others listen, too, and ended when nobody has taken it;
 * - where nobody else listens, it is a request as any other, as it would be without us (RFC 9110, section 7.8).
 *
 * Others must not hear of what is ours: a `ws` server with a path answers all else with 400, Socket.IO ends after a
 * second what nobody has answered by then. An event has no means to be kept from its other listeners, so it is taken
 * before it is emitted.
 */
export class UpgradeDispatcher {
  readonly #server: Server
  readonly #timeout: number
  readonly #scopes = new Set<UpgradeScope>()
  /** Ours, to be routed. */
  #queue: (() => void)[] = []
  /** On connections with earlier requests that have not been answered. */
  readonly #waiting = new Set<Waiting>()
  /** Others', with what ends those that nobody has taken. */
  readonly #left = new Map<Duplex, () => void>()
  #poll: NodeJS.Timeout | undefined
  #closing = false

  /**
   * The dispatcher of a server; one, however often the plugin is registered.
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
      const [name, request, socket, head] = event as ['upgrade', IncomingMessage, Duplex, Buffer]
      return (name === 'upgrade' && this.#take(request, socket, head)) || emit.apply(server, event as never)
    }
  }

  add(scope: UpgradeScope): void {
    // Node.js hands upgrades over where somebody listens.
    if (this.#scopes.size === 0) this.#server.on('upgrade', ignore)
    this.#scopes.add(scope)
  }

  delete(scope: UpgradeScope): void {
    this.#scopes.delete(scope)
    if (this.#scopes.size === 0) this.#server.off('upgrade', ignore)
  }

  /** Lets nothing wait that would hold up the end of the server. */
  close(): void {
    this.#closing = true
    const deadline = Date.now() + CLOSING_PATIENCE
    for (const waiting of this.#waiting) waiting.deadline = Math.min(waiting.deadline, deadline)
    for (const end of [...this.#left.values()]) end()
  }

  /** @returns false for what is left to others */
  #take(request: IncomingMessage, socket: Duplex, head: Buffer): boolean {
    if (this.#scopes.size === 0) return false
    // An error that nobody hears would end the process.
    socket.on('error', ignore)
    upgrades.set(request, { socket, head })
    // Requests that are injected for a test have none, and any duplex stream serves as one.
    request.socket ??= socket as Socket
    const alone = this.#server.listenerCount('upgrade') === 1
    const asked = isWebSocket(request)
    const scope = [...this.#scopes].find((one) => asked && (alone ? one.covers(request) : one.owns(request)))
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
      const written = bytesWritten(socket)
      this.#leave(socket, () => !isRead(socket) && (!free || bytesWritten(socket) === written))
      return false
    } else if (request.rawHeaders.length >= 2 * MAX_HEADER_LINES) {
      this.#whenFree(request, socket, free, () => {
        socket.write(TOO_MANY_HEADERS)
        endSoon(socket)
      })
    } else {
      // At once: a stream that has ended takes nothing back.
      socket.unshift(Buffer.concat([plainHead(request), head]))
      this.#whenFree(request, socket, free, () => this.#takeBack(socket))
    }
    return true
  }

  /** Has the HTTP server read a connection again. */
  #takeBack(socket: Duplex): void {
    // As in endSoon.
    if ('setTimeout' in socket) (socket as Socket).setTimeout(this.#server.timeout)
    this.#server.emit('encrypted' in socket ? 'secureConnection' : 'connection', socket)
  }

  /** Calls back when all earlier requests of a connection have been answered; ends it where that takes too long. */
  #whenFree(request: IncomingMessage, socket: Duplex, free: boolean, then: () => void): void {
    if (free) {
      then()
      return
    }
    const patience = this.#closing ? CLOSING_PATIENCE : this.#timeout
    this.#waiting.add({ request, socket, deadline: Date.now() + patience, then })
    this.#poll ??= setInterval(() => this.#lookAtWaiting(), POLL_INTERVAL).unref()
  }

  #lookAtWaiting(): void {
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

  /** Leaves a connection to others, and ends it where none of them has taken it. */
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

/** RFC 6455, section 4.2.1. */
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

/** Whether no answer to a request is assigned to a connection. */
function isFree(request: IncomingMessage, socket: Duplex): boolean {
  const probe = assignedTo(socket, request)
  // Node.js takes any duplex stream here, its types only a socket of the network.
  probe?.detachSocket(socket as Socket)
  return probe !== undefined
}

/**
 * The answer to a request, assigned to its connection.
 * @returns undefined where the connection ends, or another answer is assigned to it: Node.js refuses a second one
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

/** Whoever has taken a connection reads it. */
function isRead(socket: Duplex): boolean {
  return socket.listenerCount('data') > 0 || socket.listenerCount('readable') > 0
}

/** Undefined for what is no socket of the network. */
function bytesWritten(socket: Duplex): number | undefined {
  return (socket as Partial<Socket>).bytesWritten
}

/** A request's line and headers without its wish for an upgrade. Its connection ends with the answer. */
function plainHead({ method, url, httpVersion, rawHeaders }: IncomingMessage): Buffer {
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const [name, value] = [rawHeaders[i]!, rawHeaders[i + 1]!]
    if (!UPGRADE_HEADERS.has(name.toLowerCase())) head += `${name}: ${value}\r\n`
  }
  return Buffer.from(`${head}Connection: close\r\n\r\n`, 'latin1')
}
