import { freePort } from './app.js'
import { FaultProxy } from './fault-proxy.js'
import { type Owner, until } from './helper.js'
import { NatsServer } from './nats.js'

/** The number of servers: one that is disconnected from the others leaves two that are not. */
const SIZE = 3

/** NATS servers of one cluster, each connected to the others through proxies of its own. */
export class NatsRoutes {
  readonly servers: NatsServer[]
  /** Who connects to whom: the ways out of each server. */
  readonly #ways: (FaultProxy | undefined)[][]

  private constructor(servers: NatsServer[], ways: (FaultProxy | undefined)[][]) {
    this.servers = servers
    this.#ways = ways
  }

  /**
   * Starts them, and waits until they are connected.
   * @param configuration lines for each of them
   */
  static async start(owner: Owner, configuration = ''): Promise<NatsRoutes> {
    const ports: number[] = []
    for (let n = 0; n < SIZE; n++) ports.push(await freePort())
    const ways = await Promise.all(
      ports.map((_, from) =>
        Promise.all(
          ports.map((port, to) => (from === to ? Promise.resolve(undefined) : FaultProxy.start(owner, port)))
        )
      )
    )
    // Servers tell each other where others are. There nobody answers, so that they use the proxies only.
    const nowhere = await freePort()
    const servers = await Promise.all(
      ports.map((port, n) => {
        const routes = ways[n]!.flatMap((way) => (way === undefined ? [] : `nats://127.0.0.1:${way.port}`))
        return NatsServer.start(
          owner,
          `cluster { name: test, listen: "127.0.0.1:${port}", advertise: "127.0.0.1:${nowhere}", no_advertise: true, routes: [${routes.join(', ')}] }
           ${configuration}`
        )
      })
    )
    const cluster = new NatsRoutes(servers, ways)
    await cluster.connected()
    return cluster
  }

  /** Waits until each server is connected to all others. */
  async connected(): Promise<void> {
    await until(async () => {
      const all = await Promise.all(this.servers.map((server) => server.monitor()))
      return all.every(({ routes }) => routes === SIZE - 1)
    })
  }

  /**
   * Disconnects a server from the others.
   * @param silently whether packets are dropped, so that neither end notices it at once
   */
  disconnect(n: number, silently = false): void {
    for (const way of this.#between(n)) {
      way.mode = silently ? 'silence' : 'refuse'
      if (silently) way.silence()
      else way.cut()
    }
  }

  /** Lets a server and the others connect again. */
  reconnect(n: number): void {
    for (const way of this.#between(n)) {
      way.mode = 'pass'
      way.cut()
    }
  }

  /** Cuts the connections of a server to the others once. */
  cut(n: number): void {
    for (const way of this.#between(n)) way.cut()
  }

  /** The ways between one server and the others, in both directions. */
  #between(n: number): FaultProxy[] {
    return this.#ways.flatMap((out, from) =>
      out.filter((way, to): way is FaultProxy => way !== undefined && (from === n || to === n))
    )
  }
}
