import {
  type AddedFields,
  describe,
  type EventType,
  MAX_CHANNELS,
  type ServerEvent,
  type StoredEvent
} from './server-event.js'

/** How many events are kept. */
const KEPT = 500

/** How many events of one type and reason are added one by one within a second. The others are counted in one event. */
const MAX_PER_SECOND = 20
const SECOND = 1000

/** Of how many types and reasons it is noted how fast they come. Administrators may give reasons of their own. */
const MAX_RATES = 200

/** The events of one type and reason, while they come fast. */
interface Rate {
  /** When its second began: `performance.now()`. */
  begunAt: number
  count: number
  /** The first that is not added on its own. It is added with the number of all of them when the second is over. */
  first: AddedFields | undefined
}

/**
 * The last events of this node, for its operator: what was refused and closed, and why. An event costs little more than
 * its fields, because clients cause events, and thousands may come at once.
 */
export class EventLog {
  /** This node's id. */
  readonly node: string
  /** The last KEPT events. Number n is at n % KEPT. */
  readonly #ring: StoredEvent[] = []
  readonly #rates = new Map<string, Rate>()
  readonly #listeners = new Set<(event: StoredEvent) => void>()
  #last = 0
  #timer: NodeJS.Timeout | undefined

  constructor(node: string) {
    this.node = node
  }

  /** Adds an event. */
  add(type: EventType, fields: AddedFields): void {
    const key = `${type} ${fields.reason ?? fields.code ?? ''}`
    const rate = this.#rates.get(key)
    const now = performance.now()
    if (rate === undefined || now - rate.begunAt >= SECOND) {
      if (rate?.first !== undefined) this.#storeSum(type, rate)
      if (this.#rates.size >= MAX_RATES) this.#forgetRates(now)
      this.#rates.set(key, { begunAt: now, count: 1, first: undefined })
      this.#store(type, fields)
    } else if (++rate.count <= MAX_PER_SECOND) this.#store(type, fields)
    else if (rate.first === undefined) {
      rate.first = fields
      this.#timer ??= setTimeout(() => this.#storeCounted(), SECOND).unref()
    }
  }

  /**
   * The kept events, oldest first.
   * @param after only those with a higher number
   */
  list(after = 0): ServerEvent[] {
    return this.#stored(after).map((event) => describe(this.node, event))
  }

  /**
   * Calls a function with each new event, in the order of their numbers.
   * @returns a function that ends this
   */
  follow(listener: (event: ServerEvent) => void): () => void {
    const own = (event: StoredEvent) => listener(describe(this.node, event))
    this.#listeners.add(own)
    return () => {
      this.#listeners.delete(own)
    }
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  #stored(after: number): StoredEvent[] {
    const first = Math.max(after, this.#last - KEPT) + 1
    const count = Math.max(0, this.#last - first + 1)
    return Array.from({ length: count }, (_, index) => this.#ring[(first + index) % KEPT]!)
  }

  #store(type: EventType, fields: AddedFields): void {
    const { channels } = fields
    const kept =
      channels !== undefined && channels.length > MAX_CHANNELS
        ? { ...fields, channels: channels.slice(0, MAX_CHANNELS) }
        : fields
    const event = { number: ++this.#last, time: Date.now(), type, fields: kept }
    this.#ring[event.number % KEPT] = event
    for (const listener of this.#listeners) listener(event)
  }

  /** Adds what was counted within the last second. Forgets what does not come fast any more. */
  #storeCounted(): void {
    this.#timer = undefined
    const now = performance.now()
    let counting = false
    for (const [key, rate] of this.#rates) {
      const over = now - rate.begunAt >= SECOND
      if (over || rate.first !== undefined) {
        // The key begins with the type, which has no space.
        const type = key.slice(0, key.indexOf(' ')) as EventType
        if (rate.first !== undefined) this.#storeSum(type, rate)
        if (over) this.#rates.delete(key)
      }
      counting ||= !over
    }
    if (counting) this.#timer = setTimeout(() => this.#storeCounted(), SECOND).unref()
  }

  #forgetRates(now: number): void {
    for (const [key, { begunAt, first }] of this.#rates) {
      if (first === undefined && now - begunAt >= SECOND) this.#rates.delete(key)
    }
  }

  #storeSum(type: EventType, rate: Rate): void {
    const { level, text, code, reason } = rate.first!
    const count = rate.count - MAX_PER_SECOND
    rate.first = undefined
    rate.count = MAX_PER_SECOND
    this.#store(type, {
      level,
      text: `${count} more like this within a second: ${text}`,
      code,
      reason,
      count
    })
  }
}
