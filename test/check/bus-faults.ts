import { setTimeout as sleep } from 'node:timers/promises'
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
  /** The maximum time for which a nats-server is down, and a node is stopped, in milliseconds. */
  absence: { server: number; node: number }
}

/** The faults of nats-server, and of the network between it and the nodes. */
export class BusFaults {
  readonly #options: BusFaultsOptions
  /** Whether a fault is using the nats-server. */
  #serverHeld = false

  constructor(options: BusFaultsOptions) {
    this.#options = options
  }

  get all(): [weight: number, fault: Fault][] {
    return [
      [3, (random) => this.#kill(random.below(3000))],
      [1, () => this.#kill(this.#options.absence.server)],
      [1, (random) => this.#stopServer(random)],
      [2, (random) => this.#stopNode(random)],
      [2, (random) => this.#partition(random)],
      [2, (random) => this.#cut(random)],
      [2, (random) => this.#drop(random)],
      [1, (random) => this.#delay(random)]
    ]
  }

  /** The process is killed, and starts again without state. */
  async #kill(absence: number): Promise<string> {
    return this.#holdServer(async () => {
      const what = this.#options.say(
        `nats-server is killed for ${absence < 3000 ? 'a moment' : `${absence} ms`}`
      )
      const { nats } = this.#options.system
      await nats!.kill()
      await sleep(absence)
      await nats!.start()
      return what
    })
  }

  /** The process is stopped: its connections stay open, and it does not answer. */
  #stopServer(random: Random): Promise<string> {
    return this.#holdServer(async () => {
      const what = this.#options.say('nats-server is stopped')
      const { nats } = this.#options.system
      await nats!.pause()
      await sleep(random.below(2 * NODE_TIMEOUT))
      nats!.continue()
      return what
    })
  }

  async #holdServer(action: () => Promise<string>): Promise<string> {
    if (this.#serverHeld) return ''
    this.#serverHeld = true
    try {
      return await action()
    } finally {
      this.#serverHeld = false
    }
  }

  /** So long that another sequencer takes over. nats-server may end the connection, as it does with slow consumers. */
  #stopNode(random: Random): Promise<string> {
    return this.#options.hold(random, async (node) => {
      const what = this.#options.say(`${node.name} is stopped for long`)
      node.signal('SIGSTOP')
      await sleep(this.#options.absence.node)
      if (random.chance(0.5)) node.bus!.cut()
      node.signal('SIGCONT')
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
