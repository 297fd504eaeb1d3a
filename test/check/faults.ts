import { setTimeout as sleep } from 'node:timers/promises'
import { BusFaults } from './bus-faults.js'
import type { History } from './history.js'
import { NODE_TIMEOUT, type Node } from './node.js'
import type { Random } from './random.js'
import type { Readers } from './readers.js'
import type { System } from './system.js'

/** Injects a fault, and repairs it. Resolves with its description; empty if it was not possible. */
export type Fault = (random: Random) => Promise<string>

/** In a run of at least so many milliseconds, some faults last longer. */
const LONG_RUN = 5 * 60_000
/** For how long NATS is away, and a node is stopped, in a long run and in a short one, in milliseconds. */
const LONG_ABSENCE = { server: 30_000, node: 10_000 }
const SHORT_ABSENCE = { server: 6000, node: 5000 }

/** Injects faults into a system, at random. */
export class Faults {
  readonly #system: System
  readonly #history: History
  readonly #readers: Readers
  /** Nodes that a fault is using. */
  readonly #held = new Set<Node>()
  #absence = SHORT_ABSENCE
  readonly #faults: [weight: number, fault: Fault][] = [
    [3, (random) => this.#kill(random)],
    [1, (random) => this.#close(random)],
    [3, (random) => this.#stop(random)],
    [2, (random) => this.#partition(random)],
    [2, (random) => this.#cut(random)],
    [2, (random) => this.#drop(random)],
    [3, (random) => this.#terminate(random)],
    [3, (random) => this.#break(random)],
    [1, (random) => this.#setClock(random)],
    [1, (random) => this.#crash(random)]
  ]

  constructor(system: System, history: History, readers: Readers) {
    this.#system = system
    this.#history = history
    this.#readers = readers
  }

  /** Injects faults for so many milliseconds. Resolves when all are repaired. */
  async inject(random: Random, duration: number): Promise<void> {
    const end = performance.now() + duration
    this.#absence = duration < LONG_RUN ? SHORT_ABSENCE : LONG_ABSENCE
    const bus = this.#busFaults()
    const faults = [...this.#faults, ...(bus?.all ?? [])]
    const bag = faults.flatMap(([weight, fault]) => Array.from({ length: weight }, () => fault))
    const begun = performance.now()
    /** What happens once in each run, in this order, and at which part of it. */
    const once: [at: number, fault: Fault][] = []
    if (bus !== undefined) {
      once.push([0.1 + 0.2 * random.next(), () => bus.away()])
      once.push([0.35 + 0.1 * random.next(), (random) => bus.change(random)])
    }
    if (this.#system.replication !== undefined) {
      once.push([0.5 + 0.3 * random.next(), () => this.#failOver()])
    }
    while (performance.now() < end) {
      await sleep(200 + random.below(2000))
      if (once.length > 0 && performance.now() - begun > once[0]![0] * duration) {
        await this.#inject(once.shift()![1], random)
        continue
      }
      // Some faults overlap.
      const chosen = Array.from({ length: random.chance(0.3) ? 2 : 1 }, () => random.one(bag))
      await Promise.all(chosen.map((fault) => this.#inject(fault, random)))
    }
    await this.#system.healthy()
    await this.#system.connected()
  }

  async #inject(fault: Fault, random: Random): Promise<void> {
    const what = await fault(random.fork())
    if (what !== '') this.#history.incident(`over: ${what}`)
  }

  async #failOver(): Promise<string> {
    // What a terminated session committed only on the primary must have reached the standby.
    await sleep(2000)
    const what = this.#say('the standby is promoted')
    await this.#system.failOver()
    await this.#system.healthy()
    return what
  }

  #busFaults(): BusFaults | undefined {
    const system = this.#system
    if (system.nats === undefined) return undefined
    const say = (what: string) => this.#say(what)
    const mixed = () => {
      const interval = { from: this.#history.now(), to: Number.MAX_VALUE }
      this.#history.mixed.push(interval)
      return () => {
        interval.to = this.#history.now()
      }
    }
    return new BusFaults({
      system,
      say,
      hold: (...held) => this.#hold(...held),
      mixed,
      absence: this.#absence.server
    })
  }

  #say(what: string): string {
    this.#history.incident(what)
    return what
  }

  /** Does something to a node that no other fault is using, and releases it when it works again. */
  async #hold(random: Random, action: (node: Node) => Promise<string>): Promise<string> {
    // Most faults concern the sequencer, because it makes the order.
    const free = this.#system.nodes.filter((node) => !this.#held.has(node))
    const sequencer = random.chance(0.6) ? await this.#sequencer(free) : undefined
    const node = sequencer ?? (free.length === 0 ? undefined : random.one(free))
    if (node === undefined || this.#held.has(node)) return ''
    this.#held.add(node)
    try {
      return await action(node)
    } finally {
      this.#held.delete(node)
    }
  }

  async #sequencer(nodes: Node[]): Promise<Node | undefined> {
    for (const node of nodes) {
      try {
        const response = await fetch(`${node.http}/health`, { signal: AbortSignal.timeout(1000) })
        const { outbox } = (await response.json()) as { outbox?: { sequencer?: boolean } }
        if (outbox?.sequencer) return node
      } catch {
        // It does not answer, because of another fault.
      }
    }
    return undefined
  }

  #kill(random: Random): Promise<string> {
    return this.#hold(random, async (node) => {
      const what = this.#say(`${node.name} is killed`)
      await node.end('SIGKILL')
      await sleep(random.below(1.5 * NODE_TIMEOUT))
      node.start()
      return what
    })
  }

  #close(random: Random): Promise<string> {
    return this.#hold(random, async (node) => {
      const what = this.#say(`${node.name} is closed`)
      await node.end('SIGTERM')
      await sleep(random.below(500))
      node.start()
      return what
    })
  }

  /** Mostly for longer than its timeout. Then another node takes over, and this one does not notice. */
  #stop(random: Random): Promise<string> {
    return this.#hold(random, async (node) => {
      const long = random.chance(0.3)
      const what = this.#say(`${node.name} is stopped${long ? ` for ${this.#absence.node / 1000} s` : ''}`)
      node.signal('SIGSTOP')
      await sleep(long ? this.#absence.node : NODE_TIMEOUT * (0.3 + 1.5 * random.next()))
      // nats-server may end the connection, as it does with slow consumers.
      if (long && random.chance(0.5)) node.bus?.cut()
      node.signal('SIGCONT')
      return what
    })
  }

  /** Packets are dropped, and neither end notices. */
  #partition(random: Random): Promise<string> {
    return this.#hold(random, async (node) => {
      const what = this.#say(`${node.name} is cut off from PostgreSQL in silence`)
      for (const proxy of node.proxies) {
        proxy.mode = 'silence'
        proxy.silence()
      }
      await sleep(NODE_TIMEOUT * (0.3 + 1.5 * random.next()))
      for (const proxy of node.proxies) {
        proxy.mode = 'pass'
        if (random.chance(0.5)) proxy.cut()
      }
      return what
    })
  }

  #cut(random: Random): Promise<string> {
    return this.#hold(random, async (node) => {
      const what = this.#say(`the connections of ${node.name} to PostgreSQL are cut`)
      for (const proxy of node.proxies) {
        if (random.chance(0.5)) proxy.cut()
        else proxy.cutAfter(random.below(2000))
      }
      return what
    })
  }

  #drop(random: Random): Promise<string> {
    return this.#hold(random, async (node) => {
      const what = this.#say(`notifications on their way to ${node.name} are dropped`)
      node.dropped = random.one([0.05, 0.3, 1])
      await sleep(NODE_TIMEOUT * (0.3 + 1.5 * random.next()))
      node.dropped = 0
      return what
    })
  }

  async #terminate(random: Random): Promise<string> {
    const who = random.one(['%', '% sequencer', '% listener', '% publisher', 'check writer'])
    const what = this.#say(`sessions of "${who}" are terminated`)
    await this.#system.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and application_name like $1`,
      [who]
    )
    return what
  }

  /** The clock of the machine is set, as a time server does it. */
  #setClock(random: Random): Promise<string> {
    return this.#hold(random, async (node) => {
      const seconds = random.one([-3600, -30, 30, 3600])
      const what = this.#say(`the clock of ${node.name} is set by ${seconds} s`)
      node.setClock(seconds)
      await sleep(random.below(NODE_TIMEOUT))
      return what
    })
  }

  async #break(random: Random): Promise<string> {
    const what = this.#say('readers are disconnected')
    for (let left = 1 + random.below(4); left > 0; left--) this.#readers.break()
    return what
  }

  async #crash(random: Random): Promise<string> {
    const { postgres } = this.#system
    if (random.chance(0.5)) {
      const what = this.#say('PostgreSQL restarts, because one of its processes is killed')
      const { rows } = await this.#system.query(
        `select pid from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`
      )
      if (rows.length > 0) process.kill(random.one(rows).pid, 'SIGKILL')
      return what
    }
    const signal = random.one(['SIGKILL', 'SIGQUIT', 'SIGINT'] as const)
    const what = this.#say(`PostgreSQL is ended with ${signal}`)
    postgres.kill(signal)
    await postgres.exited
    await sleep(random.below(1500))
    await this.#system.restartPostgres()
    return what
  }
}
