import { setTimeout as sleep } from 'node:timers/promises'
import type { CloseReason } from './close-reason.js'
import { CLOSE, type Connection } from './connection.js'
import { Expiry } from './expiry.js'
import { TRANSPORTS, type TransportName } from './transport.js'

/** How often each connection is pinged, in milliseconds; the interval of postgres-websockets. */
const PING_INTERVAL = 30_000

/** Connections are pinged in this many groups, because ten thousand writes at once would block the event loop. */
const PING_GROUPS = 30

/** At shutdown, connections are closed at this rate or faster, but not all at once, so that they do not return at once. */
const CLOSES_A_SECOND = 1000
const CLOSE_TICK = 20

/** How connections are closed at shutdown. */
export interface Leaving {
  code: number
  reason: string
  /** For metrics, events and the log. */
  cause: CloseReason
  /** Whether to spread the closes, because the other servers must take all of these clients. */
  slowly?: boolean
}

export const SHUTTING_DOWN: Leaving = {
  code: CLOSE.GOING_AWAY,
  reason: 'server shutting down',
  cause: 'shutdown'
}

/** https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number */
export const OUTDATED: Leaving = {
  code: CLOSE.SERVICE_RESTART,
  reason: 'server too old for its database',
  cause: 'outdated',
  slowly: true
}

/** The open connections of this server: pings them, expires their tokens, and closes them at shutdown. */
export class ConnectionRegistry {
  readonly #groups = Array.from({ length: PING_GROUPS }, () => new Set<Connection>())
  readonly #pings: NodeJS.Timeout
  readonly #expiry = new Expiry<Connection>((connection) => connection.expire())
  // Object.fromEntries() is typed with any text as a name.
  readonly #transports = Object.fromEntries(TRANSPORTS.map((name) => [name, 0])) as Record<
    TransportName,
    number
  >
  #size = 0
  #nextGroup = 0
  #pinging = 0

  constructor() {
    this.#pings = setInterval(() => {
      this.#pinging = (this.#pinging + 1) % PING_GROUPS
      for (const connection of this.#groups[this.#pinging]!) connection.ping()
    }, PING_INTERVAL / PING_GROUPS).unref()
  }

  get size(): number {
    return this.#size
  }

  /** How many connections each transport has. */
  get transports(): Readonly<Record<TransportName, number>> {
    return this.#transports
  }

  add(connection: Connection): void {
    connection.pingGroup = this.#nextGroup
    this.#nextGroup = (this.#nextGroup + 1) % PING_GROUPS
    this.#groups[connection.pingGroup]!.add(connection)
    this.#size++
    this.#transports[connection.transport]++
    if (connection.expiresAt !== undefined) this.#expiry.add(connection, connection.expiresAt)
  }

  /** @returns whether the connection was registered */
  delete(connection: Connection): boolean {
    if (!this.#groups[connection.pingGroup]!.delete(connection)) return false
    this.#size--
    this.#transports[connection.transport]--
    if (connection.expiresAt !== undefined) this.#expiry.delete(connection, connection.expiresAt)
    return true
  }

  /** Sets when the token of a connection expires, in milliseconds since the epoch; undefined: never. */
  renew(connection: Connection, expiresAt: number | undefined): void {
    if (connection.expiresAt !== undefined) this.#expiry.delete(connection, connection.expiresAt)
    connection.expiresAt = expiresAt
    if (expiresAt !== undefined) this.#expiry.add(connection, expiresAt)
  }

  *[Symbol.iterator](): Generator<Connection> {
    for (const group of this.#groups) yield* group
  }

  /**
   * Closes all connections, spread over half of the time. Those that do not answer by its end are terminated.
   * @param time how long that may take, in milliseconds
   * @param leaving the code and the reason; `slowly` uses half of the time even for a few connections
   */
  async close(time: number, { code, reason, cause, slowly = false }: Leaving = SHUTTING_DOWN): Promise<void> {
    clearInterval(this.#pings)
    const end = performance.now() + time
    const spread = time / 2
    const perSecond = Math.max(slowly ? 0 : CLOSES_A_SECOND, (this.#size * 1000) / spread)
    const perTick = Math.ceil((perSecond * CLOSE_TICK) / 1000)
    const tick = slowly ? Math.max(CLOSE_TICK, spread / this.#size) : CLOSE_TICK
    let closed = 0
    const all = [...this]
    for (const connection of all) {
      connection.goAway(code, reason, cause)
      if (++closed % perTick === 0 && closed < all.length) await sleep(tick)
    }
    while (this.#size > 0 && performance.now() < end) await sleep(10)
    for (const connection of [...this]) connection.terminate()
    this.#expiry.stop()
  }
}
