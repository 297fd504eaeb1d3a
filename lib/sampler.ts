import { hostname } from 'node:os'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { NodeStats } from './events/index.js'
import { type Health, knownHealthOf } from './health.js'
import type { Parts } from './parts.js'
import { VERSION } from './version.js'

/** How often a sample is kept, in milliseconds, and how many: ten minutes. */
const INTERVAL = 10_000
const KEPT = 60

/** How often figures are sent while somebody follows them, in milliseconds. */
const FOLLOWED_INTERVAL = 1000

/** How often the delay of the event loop is measured, in milliseconds. Node.js does it without running any JavaScript. */
const RESOLUTION = 20

/**
 * The figures of this node, once a second while somebody follows them, and otherwise every ten seconds, of which the last ten
 * minutes are kept. A change of the node's health is added to the events.
 */
export class Sampler {
  readonly #parts: Parts
  readonly #startedAt = Date.now()
  readonly #lag = monitorEventLoopDelay({ resolution: RESOLUTION })
  /** Milliseconds since the epoch, as the time of the figures that are kept. */
  #keptAt = 0
  readonly #samples: NodeStats[] = []
  readonly #followers = new Set<(stats: NodeStats) => void>()
  #timer: NodeJS.Timeout | undefined
  #usage = process.cpuUsage()
  #measuredAt = performance.now()
  #latest: NodeStats | undefined
  #status: Health['status'] | undefined
  #stopped = false

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** The last ten minutes, oldest first. */
  get samples(): readonly NodeStats[] {
    return this.#samples
  }

  start(): void {
    this.#lag.enable()
    this.#schedule()
  }

  stop(): void {
    this.#stopped = true
    this.#lag.disable()
    clearInterval(this.#timer)
  }

  /** The figures of now, or of less than a second ago. */
  latest(): NodeStats {
    const latest = this.#latest
    if (latest !== undefined && performance.now() - this.#measuredAt < FOLLOWED_INTERVAL) return latest
    return this.#measure()
  }

  /**
   * Calls a function with the figures once a second.
   * @returns a function that ends this
   */
  follow(follower: (stats: NodeStats) => void): () => void {
    this.#followers.add(follower)
    if (this.#followers.size === 1) this.#schedule()
    return () => {
      if (this.#followers.delete(follower) && this.#followers.size === 0) this.#schedule()
    }
  }

  #schedule(): void {
    clearInterval(this.#timer)
    if (this.#stopped) return
    const interval = this.#followers.size > 0 ? FOLLOWED_INTERVAL : INTERVAL
    this.#timer = setInterval(() => this.#tick(), interval).unref()
  }

  #tick(): void {
    const stats = this.#measure()
    if (Date.now() - this.#keptAt >= INTERVAL - FOLLOWED_INTERVAL / 2) {
      this.#keptAt = Date.now()
      if (this.#samples.push(stats) > KEPT) this.#samples.shift()
      // The answer is for the next figures.
      const { durable } = this.#parts
      if (durable.installed) durable.permission()
    }
    for (const follower of this.#followers) follower(stats)
  }

  #measure(): NodeStats {
    const { clients, hub, publisher, metrics, events, sequencer } = this.#parts
    const health = knownHealthOf(this.#parts)
    const now = performance.now()
    const usage = process.cpuUsage(this.#usage)
    const cpu = (usage.user + usage.system) / 1000 / Math.max(1, now - this.#measuredAt)
    this.#usage = process.cpuUsage()
    this.#measuredAt = now
    const { rss, heapUsed } = process.memoryUsage()
    const { connections } = clients
    const { listener, pool, schema, notificationQueue, status, reasons } = health
    const stats: NodeStats = {
      node: events.node,
      hostname: hostname(),
      version: VERSION,
      time: new Date().toISOString(),
      startedAt: new Date(this.#startedAt).toISOString(),
      status,
      reasons,
      listener,
      pool,
      schema,
      notificationQueue,
      sequencer: sequencer.state.sequencer,
      memoryBytes: rss,
      heapBytes: heapUsed,
      eventLoopLagMs: this.#takeLag(),
      cpu: rounded(cpu),
      connections: connections.size,
      transports: { ...connections.transports },
      channels: hub.joinedChannels,
      receivedMessages: metrics.messagesReceived.total,
      receivedBytes: metrics.bytesReceived.total,
      sentMessages: clients.sent.messages,
      sentBytes: clients.sent.bytes,
      notifications: metrics.notifications.total,
      delivery: metrics.deliveryTimes.take(),
      closes: { ...metrics.closes },
      refusals: { ...metrics.refusals.totals },
      lostMessages: { ...metrics.lostMessages.totals },
      slowCatchUps: clients.flow.fallenBehind,
      publishQueueBytes: publisher.queuedBytes,
      bufferedBytes: clients.flow.totalBytes,
      pausedSockets: publisher.pausedSenders + clients.pace.throttled,
      outboxBytes: sequencer.state.bytes ?? null
    }
    this.#latest = stats
    this.#tellHealth(health)
    return stats
  }

  #tellHealth({ status, reasons }: Pick<Health, 'status' | 'reasons'>): void {
    const before = this.#status
    this.#status = status
    if (before === undefined || before === status) return
    const text = `the node is ${status}${reasons.length === 0 ? '' : `: ${reasons.join('; ')}`}`
    const level = status === 'ok' ? 'info' : status === 'degraded' ? 'warning' : 'error'
    this.#parts.events.add('health', { level, text, reason: status })
  }

  /** The 99th percentile since the last call, in milliseconds, without the interval in which it is measured. */
  #takeLag(): number {
    const lag = this.#lag.percentile(99) / 1e6 - RESOLUTION
    this.#lag.reset()
    return rounded(Math.max(0, lag))
  }
}

function rounded(value: number): number {
  return Math.round(value * 1000) / 1000
}
