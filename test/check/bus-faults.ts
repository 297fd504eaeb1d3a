import { setTimeout as sleep } from 'node:timers/promises'
import type { NatsRoutes } from '../support/nats-routes.js'
import type { Fault } from './faults.js'
import { NODE_TIMEOUT, type Node } from './node.js'
import type { Random } from './random.js'
import type { System } from './system.js'

export interface BusFaultsOptions {
  system: System
  /** Records what happens. */
  say: (what: string) => string
  /** Does something to a node that no other fault is using. */
  hold: (random: Random, action: (node: Node) => Promise<string>) => Promise<string>
  /** Notes that from now on some nodes have no bus. @returns a function that ends this */
  mixed: () => () => void
  /** For how long NATS is away, in milliseconds. */
  absence: number
}

/** The faults of NATS, of the network between its servers and the nodes, and of how nodes are configured. */
export class BusFaults {
  readonly #options: BusFaultsOptions
  /** Whether a fault is using the NATS servers. */
  #serversHeld = false

  constructor(options: BusFaultsOptions) {
    this.#options = options
  }

  get all(): [weight: number, fault: Fault][] {
    return [
      [2, (random) => this.#kill(random)],
      [2, (random) => this.#away(random.below(3000))],
      [3, (random) => this.#cutRoutes(random)],
      [1, (random) => this.#stopServer(random)],
      [2, (random) => this.#partition(random)],
      [2, (random) => this.#cut(random)],
      [2, (random) => this.#drop(random)],
      [1, (random) => this.#delay(random)],
      [1, (random) => this.change(random)]
    ]
  }

  /** NATS is away for long. */
  away(): Promise<string> {
    return this.#away(this.#options.absence)
  }

  /** The process of one server is killed, and starts again without state. Nodes do not know the other servers. */
  #kill(random: Random): Promise<string> {
    return this.#holdServers(async ({ servers }) => {
      const what = this.#options.say('a nats-server is killed')
      const server = random.one(servers)
      await server.kill()
      await sleep(random.below(2 * NODE_TIMEOUT))
      await server.start()
      return what
    })
  }

  /** All servers are killed, and start again without state. */
  #away(absence: number): Promise<string> {
    return this.#holdServers(async ({ servers }) => {
      const what = this.#options.say(
        `all nats-servers are killed${absence < 3000 ? '' : `, and away for ${absence / 1000} s`}`
      )
      await Promise.all(servers.map((server) => server.kill()))
      await sleep(absence)
      await Promise.all(servers.map((server) => server.start()))
      return what
    })
  }

  /** A process is stopped: its connections stay open, and it does not answer. */
  #stopServer(random: Random): Promise<string> {
    return this.#holdServers(async ({ servers }) => {
      const what = this.#options.say('a nats-server is stopped')
      const server = random.one(servers)
      await server.pause()
      await sleep(random.below(2 * NODE_TIMEOUT))
      server.continue()
      return what
    })
  }

  /** A server loses the others: in silence, or so that both ends notice it, or only for a moment. */
  #cutRoutes(random: Random): Promise<string> {
    return this.#holdServers(async (cluster) => {
      const silently = random.chance(0.4)
      const what = this.#options.say(
        `a nats-server is disconnected from the others${silently ? ' in silence' : ''}`
      )
      const server = random.below(cluster.servers.length)
      if (!silently && random.chance(0.5)) cluster.cut(server)
      else {
        cluster.disconnect(server, silently)
        await sleep(NODE_TIMEOUT * (0.3 + 2 * random.next()))
        cluster.reconnect(server)
      }
      return what
    })
  }

  async #holdServers(action: (cluster: NatsRoutes) => Promise<string>): Promise<string> {
    if (this.#serversHeld) return ''
    this.#serversHeld = true
    try {
      return await action(this.#options.system.nats!)
    } finally {
      this.#serversHeld = false
    }
  }

  /**
   * A node, or two, has no bus for a while, as when an operator begins to use one, or ends that. Then the sequencer changes to
   * a node without the bus, and the database notifies; and back.
   */
  change(random: Random): Promise<string> {
    const { system, hold, say, mixed } = this.#options
    // Beside one of the previous release, some have no bus all the time.
    if (system.nodes.some(({ previous }) => previous)) return Promise.resolve('')
    const both = random.chance(0.5)
    return hold(random, async (node) => {
      const what = say(`${node.name} is configured without the bus for a while`)
      const over = mixed()
      const set = async (one: Node, usesBus: boolean) => {
        await one.end(random.chance(0.7) ? 'SIGTERM' : 'SIGKILL')
        one.usesBus = usesBus
        one.start()
        await sleep(NODE_TIMEOUT * (0.5 + random.next()))
      }
      await set(node, false)
      if (both) {
        await hold(random, async (second) => {
          await set(second, false)
          await set(second, true)
          return ''
        })
      }
      await sleep(NODE_TIMEOUT * (0.5 + 2 * random.next()))
      await set(node, true)
      await system.unanimous()
      over()
      return what
    })
  }

  /** Packets are dropped, and neither end notices. */
  #partition(random: Random): Promise<string> {
    return this.#options.hold(random, async (node) => {
      const bus = node.bus!
      const deaf = random.chance(0.3)
      const what = this.#options.say(
        deaf
          ? `${node.name} does not hear nats-server`
          : `${node.name} is cut off from nats-server in silence`
      )
      if (deaf) bus.mute()
      else {
        bus.mode = 'silence'
        bus.silence()
      }
      await sleep(NODE_TIMEOUT * (0.3 + 2 * random.next()))
      bus.mode = 'pass'
      if (random.chance(0.5)) bus.cut()
      return what
    })
  }

  #cut(random: Random): Promise<string> {
    return this.#options.hold(random, async (node) => {
      const bus = node.bus!
      const what = this.#options.say(`the connection of ${node.name} to nats-server is cut`)
      if (random.chance(0.5)) bus.cut()
      else bus.cutAfter(random.below(2000))
      if (random.chance(0.3)) {
        bus.mode = 'refuse'
        await sleep(random.below(3000))
        bus.mode = 'pass'
      }
      return what
    })
  }

  /** As if NATS servers were disconnected from each other for more than a second, and noticed it. */
  #drop(random: Random): Promise<string> {
    return this.#options.hold(random, async (node) => {
      const what = this.#options.say(`messages of NATS on their way to ${node.name} are dropped`)
      node.dropsBus = true
      await sleep(1200 + random.below(2 * NODE_TIMEOUT))
      node.dropsBus = false
      return what
    })
  }

  #delay(random: Random): Promise<string> {
    return this.#options.hold(random, async (node) => {
      const bus = node.bus!
      const what = this.#options.say(`what ${node.name} and nats-server send each other is late`)
      bus.delay = random.one([20, 300, 2000])
      await sleep(NODE_TIMEOUT * (0.3 + 1.5 * random.next()))
      bus.delay = 0
      return what
    })
  }
}
