import type { Bus } from '../bus/index.js'
import type { EventLog } from '../events/index.js'
import type { Log } from '../log.js'
import type { NodeMessage } from './messages/node-message.js'
import { BEATS } from './peers.js'

/** The maximum number of such nodes. The limit exists because any role that may connect can pretend to be a node. */
const MAX_NODES = 100

export interface OtherBusesOptions {
  /** What carries the messages of this node. */
  bus: Pick<Bus, 'name' | 'up'>
  /** How long a node may be silent before it is regarded as gone, in milliseconds. */
  timeout: number
  /** Whether a node is heard over this node's bus. */
  isPeer: (node: string) => boolean
  /** Announces through the database that this node has a bus. */
  announce: () => void
  events: EventLog
  log: Log
}

interface Other {
  hostname: string
  pid: number
  /** Undefined: the database. */
  bus: string | undefined
  /** When it was first and last heard (`performance.now()`). */
  since: number
  seen: number
}

/**
 * The nodes of this database that do not hear this one, because they have no bus, or another one. Every node hears what nodes
 * without a bus send through the database. A node with a bus announces there that it has one: when it starts, and as long as
 * there are nodes that do not hear it.
 */
export class OtherBuses {
  readonly #options: OtherBusesOptions
  readonly #heard = new Map<string, Other>()
  #timer: NodeJS.Timeout | undefined
  #reported = ''

  constructor(options: OtherBusesOptions) {
    this.#options = options
  }

  /** Their ids. */
  get nodes(): string[] {
    const { timeout, isPeer, bus } = this.#options
    const now = performance.now()
    return [...this.#heard].flatMap(([id, { bus: other, since, seen }]) => {
      if (now - seen > timeout || isPeer(id)) return []
      if (other === undefined || bus.name === 'notify') return [id]
      // It may be heard over the bus in a moment.
      return bus.up && now - since > timeout / 2 ? [id] : []
    })
  }

  /** Whether some of them have no bus, so that only what the database announces reaches them. */
  get withoutBus(): boolean {
    return this.nodes.some((id) => this.#heard.get(id)!.bus === undefined)
  }

  /** To be called whenever this node starts to listen, or its bus is restored. */
  start(): void {
    this.#timer ??= setInterval(() => this.#check(), this.#options.timeout / BEATS).unref()
    const now = performance.now()
    for (const other of this.#heard.values()) other.since = now
    this.#announce()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Takes what another node says through the database. */
  heard(message: NodeMessage): void {
    const { from, type } = message
    if (type === 'goodbye') this.forget(from)
    else if (type === 'elsewhere') this.#note(from, message, message.bus)
    // A node with a bus says nothing else there.
    else if (type === 'hello' || type === 'here' || type === 'heartbeat') {
      if (this.#options.bus.name !== 'notify') this.#note(from, message.node, undefined)
    }
  }

  /** Forgets a node that has left. */
  forget(node: string): void {
    if (this.#heard.delete(node)) this.#report()
  }

  #note(id: string, { hostname, pid }: { hostname: string; pid: number }, bus: string | undefined): void {
    const now = performance.now()
    const known = this.#heard.get(id)
    if (known !== undefined) known.seen = now
    else if (this.#heard.size < MAX_NODES) {
      this.#heard.set(id, { hostname, pid, bus, since: now, seen: now })
      this.#announce()
    }
    this.#report()
  }

  #check(): void {
    const now = performance.now()
    for (const [id, { seen }] of this.#heard) if (now - seen > this.#options.timeout) this.#heard.delete(id)
    if (this.nodes.length > 0) this.#announce()
    this.#report()
  }

  #announce(): void {
    if (this.#options.bus.name !== 'notify') this.#options.announce()
  }

  #report(): void {
    const { events, log } = this.#options
    const nodes = this.nodes.sort()
    if (nodes.join() === this.#reported) return
    this.#reported = nodes.join()
    if (nodes.length === 0) {
      const text = 'all servers have the same bus now'
      log.info({}, text)
      events.add('bus', { text, reason: 'same' })
      return
    }
    const names = nodes.map((id) => `${this.#heard.get(id)!.hostname} ${this.#heard.get(id)!.pid}`)
    const text = `${sentenceOf(nodes.length)} (${names.join(', ')})`
    log.warn({ nodes }, text)
    events.add('bus', { level: 'error', text, reason: 'mixed', count: nodes.length })
  }
}

/** What is wrong, and how to mend it. */
export function sentenceOf(count: number): string {
  const servers = count === 1 ? 'one server has' : `${count} servers have`
  return `${servers} another PGWS_BUS than this one, or only one of them has any: set the same for all servers`
}
