import { randomUUID } from 'node:crypto'
import type { BusDeliveries, PlaceInChannel } from '../../channels/index.js'
import { isCount } from '../../json-value.js'
import type { Notification } from '../../publishing/index.js'
import type { NodeChannel } from '../node-channel.js'
import type { Answers } from './answers.js'

/** The result of a confirmed publication. */
export interface Delivery {
  /** The number of clients that it was written to, on all nodes; the sum, for several messages or channels. */
  delivered: number
  /** The number of nodes that answered. */
  nodes: number
  /** The ids of the nodes that did not answer in time. */
  missing: string[]
}

/** Counts the clients of this node that messages of the bus were delivered to. */
export interface BusDeliveryCounts extends Pick<BusDeliveries, 'of'> {
  /** The position up to which this node has delivered everything. */
  readonly floor: number
  /** Where messages stand that were published with keys, after a position. */
  placesOf: (after: number, keys: readonly string[]) => Promise<PlaceInChannel[]>
}

/** Publishes notifications in a transaction that contains nothing else. */
type Publish = (notifications: Notification[]) => Promise<void>

export interface ConfirmationsOptions {
  nodes: NodeChannel
  /** The database channel on which the nodes communicate. */
  databaseChannel: string
  /** Undefined if the database is the bus. */
  busDeliveries: BusDeliveryCounts | undefined
}

/** To how many clients each node has delivered, and the nodes that have not answered. */
interface Counts {
  delivered: Map<string, number>
  missing: string[]
}

/** Publishes, and finds out to how many clients of all nodes that was delivered. */
export class Confirmations {
  readonly #options: ConfirmationsOptions

  constructor(options: ConfirmationsOptions) {
    this.#options = options
  }

  /** @throws what `publish` throws */
  async publish(notifications: readonly Notification[], publish: Publish): Promise<Delivery> {
    const { busDeliveries } = this.#options
    if (busDeliveries === undefined) return deliveryOf([await this.#count(notifications, publish)])
    const raw = notifications.filter(isRaw)
    const keyed = notifications.map((one) => (isRaw(one) ? one : { ...one, key: one.key ?? randomUUID() }))
    const keys = keyed.flatMap((one) => (isRaw(one) ? [] : one.key!))
    // Before publishing, because a beat may soon raise it above the messages.
    const { floor } = busDeliveries
    const counts: Counts[] = []
    // The bus does not carry messages of raw channels.
    if (raw.length > 0) counts.push(await this.#count(keyed, publish))
    else await publish(keyed)
    if (keys.length > 0) counts.push(await this.#countOverBus(busDeliveries, floor, keys))
    return deliveryOf(counts)
  }

  /** Publishes, and makes all nodes count which notifications of the transaction they deliver. */
  async #count(notifications: readonly Notification[], publish: Publish): Promise<Counts> {
    const { nodes, databaseChannel } = this.#options
    const mark = (payload: string): Notification => ({ channel: '', payload, databaseChannel })
    return countsOf(await nodes.count((begin, end) => publish([mark(begin), ...notifications, mark(end)])))
  }

  /** Asks all nodes to how many clients they have delivered messages of the bus. */
  async #countOverBus(
    busDeliveries: BusDeliveryCounts,
    floor: number,
    keys: readonly string[]
  ): Promise<Counts> {
    const { nodes } = this.#options
    const others = nodes.peers.map(({ id }) => id)
    // The messages are published, so a failure means that their number of readers is not known, and no more.
    try {
      const places = await busDeliveries.placesOf(floor, keys)
      const args = { places: places.map(({ channel, position }) => [channel, position]) }
      const asked = nodes.ask('delivered', args).then(countsOf, (): Counts => {
        return { delivered: new Map(), missing: others }
      })
      const [own, { delivered, missing }] = await Promise.all([busDeliveries.of(places), asked])
      return { delivered: delivered.set(nodes.id, own), missing }
    } catch {
      return { delivered: new Map(), missing: [nodes.id, ...others] }
    }
  }
}

function countsOf(answers: Answers): Counts {
  const missing: string[] = []
  return { delivered: answers.byNode(isCount, (nodes) => missing.push(...nodes)), missing }
}

/** A node that has not answered all questions is missing, although its clients count as far as it has. */
function deliveryOf(counts: readonly Counts[]): Delivery {
  const missing = new Set(counts.flatMap(({ missing }) => missing))
  const nodes = new Set(counts.flatMap(({ delivered }) => [...delivered.keys()]))
  const all = counts.flatMap(({ delivered }) => [...delivered.values()])
  return {
    delivered: all.reduce((sum, count) => sum + count, 0),
    nodes: [...nodes].filter((node) => !missing.has(node)).length,
    missing: [...missing]
  }
}

function isRaw({ databaseChannel }: Notification): boolean {
  return databaseChannel !== undefined
}
