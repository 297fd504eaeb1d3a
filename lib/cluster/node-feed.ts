import type { NodeStats, ServerEvent } from '../events/index.js'
import { toAscii } from '../json-text.js'
import { isObject } from '../json-value.js'

/** How often the other nodes are asked to go on sending, and for how long they send without being asked, in milliseconds. */
const RENEWAL = 3000
const LEASE = 10_000

/** For how long events are gathered before they are sent, in milliseconds. */
const GATHERED = 200

/** How many bytes of JSON fit into one notification. */
const MAX_BYTES = 7000

/** The source of a node's events and figures. */
export interface NodeMonitor {
  /** The kept events, oldest first. */
  events(): ServerEvent[]
  /** The figures of the last ten minutes, oldest first. */
  samples(): readonly NodeStats[]
  latest(): NodeStats
  /** Calls a function with each new event. @returns a function that ends this */
  followEvents(listener: (event: ServerEvent) => void): () => void
  /** Calls a function with the figures once a second. @returns a function that ends this */
  followStats(listener: (stats: NodeStats) => void): () => void
}

/** What a node has kept, for somebody who begins to follow it. */
export interface NodePast {
  events: ServerEvent[]
  samples: NodeStats[]
}

/** Receives what nodes send. */
export interface FeedListener {
  event(event: ServerEvent): void
  /** Undefined: the figures are not wanted. */
  stats?: ((stats: NodeStats) => void) | undefined
}

export interface NodeFeedOptions {
  monitor: () => NodeMonitor
  /** Asks all other nodes to send their events, and their figures if wanted, for as long as a lease. */
  ask: (stats: boolean) => void
  /** Sends JSON in ASCII, which fits into one notification, to all other nodes. */
  send: (text: string) => void
}

/**
 * The events and figures of all nodes, for those who follow them. A node sends its own only while another node asks for them
 * every few seconds, so nothing is sent when nobody follows.
 */
export class NodeFeed {
  readonly #options: NodeFeedOptions
  readonly #listeners = new Set<FeedListener>()
  #renewal: NodeJS.Timeout | undefined
  /** Until when this node sends them to the others (`performance.now()`). */
  #eventsUntil = 0
  #statsUntil = 0
  #endEvents: (() => void) | undefined
  #endStats: (() => void) | undefined
  #gathered: string[] = []
  #timer: NodeJS.Timeout | undefined

  constructor(options: NodeFeedOptions) {
    this.#options = options
  }

  /**
   * Calls a listener with what the other nodes send from now on.
   * @returns a function that ends this
   */
  follow(listener: FeedListener): () => void {
    this.#listeners.add(listener)
    this.#renew()
    this.#renewal ??= setInterval(() => this.#renew(), RENEWAL).unref()
    return () => {
      this.#listeners.delete(listener)
      if (this.#listeners.size > 0) return
      clearInterval(this.#renewal)
      this.#renewal = undefined
    }
  }

  /** Another node asks for what happens here. */
  asked(stats: boolean): void {
    const monitor = this.#options.monitor()
    const now = performance.now()
    this.#eventsUntil = now + LEASE
    this.#endEvents ??= monitor.followEvents((event) => this.#gather(event))
    if (!stats) return
    this.#statsUntil = now + LEASE
    this.#endStats ??= monitor.followStats((stats) => this.#sendStats(stats))
  }

  /** Takes what another node sends. Any role that may connect to the database can send anything. */
  receive(node: string, text: string): void {
    if (this.#listeners.size === 0) return
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch {
      return
    }
    if (!isObject(value)) return
    const { events = [], stats } = value
    if (Array.isArray(events)) {
      for (const event of events) {
        if (isEventOf(node, event)) for (const listener of this.#listeners) listener.event(event)
      }
    }
    if (isStatsOf(node, stats)) for (const listener of this.#listeners) listener.stats?.(stats)
  }

  stop(): void {
    clearInterval(this.#renewal)
    clearTimeout(this.#timer)
    this.#endEvents?.()
    this.#endStats?.()
  }

  #renew(): void {
    this.#options.ask([...this.#listeners].some(({ stats }) => stats !== undefined))
  }

  #sendStats(stats: NodeStats): void {
    if (performance.now() > this.#statsUntil) {
      this.#endStats?.()
      this.#endStats = undefined
      return
    }
    const text = toAscii(JSON.stringify({ stats }))
    if (text.length <= MAX_BYTES) this.#options.send(text)
  }

  #gather(event: ServerEvent): void {
    if (performance.now() > this.#eventsUntil) {
      this.#endEvents?.()
      this.#endEvents = undefined
      return
    }
    const text = toAscii(JSON.stringify(event))
    // One that is too large has long names. They are in the list of the node itself.
    this.#gathered.push(text.length <= MAX_BYTES / 2 ? text : toAscii(JSON.stringify(shortened(event))))
    this.#timer ??= setTimeout(() => this.#sendGathered(), GATHERED).unref()
  }

  #sendGathered(): void {
    this.#timer = undefined
    let texts: string[] = []
    let length = 0
    for (const text of this.#gathered) {
      if (length + text.length > MAX_BYTES) {
        this.#options.send(`{"events":[${texts}]}`)
        texts = []
        length = 0
      }
      texts.push(text)
      length += text.length + 1
    }
    this.#options.send(`{"events":[${texts}]}`)
    this.#gathered = []
  }
}

function shortened({ channels: _, subject: __, text, ...event }: ServerEvent): ServerEvent {
  return { ...event, text: text.slice(0, 200) }
}

/** Whether a value is what a node has kept. */
export function isPast(value: unknown): value is NodePast {
  if (!isObject(value) || !Array.isArray(value.events) || !Array.isArray(value.samples)) return false
  const [first = {}] = [...value.events, ...value.samples]
  const node = isObject(first) && typeof first.node === 'string' ? first.node : ''
  return (
    value.events.every((event) => isEventOf(node, event)) &&
    value.samples.every((stats) => isStatsOf(node, stats))
  )
}

/** Whether a value is figures of any node. */
export function isStats(value: unknown): value is NodeStats {
  return isObject(value) && typeof value.node === 'string' && isStatsOf(value.node, value)
}

function isEventOf(node: string, value: unknown): value is ServerEvent {
  if (!isObject(value) || value.node !== node || !isShallow(value, 2)) return false
  const { id, time, type, level, text, channels } = value
  if (channels !== undefined && !(Array.isArray(channels) && channels.every(isText))) return false
  if (!isText(id) || !/^\d+$/.test(id.slice(node.length + 1)) || !id.startsWith(`${node}-`)) return false
  return isTime(time) && [type, level, text].every(isText)
}

function isStatsOf(node: string, value: unknown): value is NodeStats {
  if (!isObject(value) || value.node !== node || !isShallow(value, 2)) return false
  const { hostname, version, status, reasons, time, startedAt } = value
  if (!Array.isArray(reasons) || !reasons.every(isText)) return false
  return [hostname, version, status].every(isText) && isTime(time) && isTime(startedAt)
}

/** Whether a value is nested at most so deeply. A very deep one could not be written as JSON again. */
function isShallow(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true
  return depth > 0 && Object.values(value).every((member) => isShallow(member, depth - 1))
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}

function isTime(value: unknown): boolean {
  return isText(value) && !Number.isNaN(Date.parse(value))
}
