import { setTimeout as sleep } from 'node:timers/promises'
import type { Hub, IncomingQueue, Losses } from '../../channels/index.js'
import { asError, errors, isPermanent, messageOf } from '../../errors.js'
import type { Log } from '../../log.js'
import type { Reference } from '../../messages/index.js'
import type { LogPage, MessageStore } from '../message-store.js'
import type { RetentionRules } from '../retention-rules.js'
import { DeliveryProof } from './delivery-proof.js'
import { HistoryGaps } from './history-gaps.js'

export interface ReplayOptions {
  history: Pick<MessageStore, 'timeline' | 'latest' | 'resolve' | 'trimmedSince' | 'catchUp'> & {
    /** A page of the messages of all channels after a position, in order. */
    readAll: (after: number) => Promise<LogPage>
  }
  durable: Pick<RetentionRules, 'refresh' | 'installed' | 'epoch' | 'secret' | 'ageOf' | 'historyGap'>
  incoming: IncomingQueue
  hub: Hub
  losses: Losses
  log: Log
  /** Whether the listener is connected. */
  listening: () => boolean
  /** Called when missing messages have been replayed. */
  onHealed: () => void
}

/** For how long the replay is retried while the database does not answer, in milliseconds. */
const PATIENCE = 10_000

/** What messages come by. */
type Source = 'listener' | 'bus'

/** The minimum interval between two searches for missing messages, in milliseconds, because any role can cause them. */
const HEALING_INTERVAL = 100

/** The minimum interval between two log lines about missing notifications, in milliseconds. */
const LOG_INTERVAL = 60_000

/**
 * Replays the durable messages whose notifications this server has missed, to all of their readers. lib/clients/catch-up.ts
 * does this for a single client.
 */
export class Replay {
  readonly #history: ReplayOptions['history']
  readonly #durable: ReplayOptions['durable']
  readonly #incoming: IncomingQueue
  readonly #gaps: HistoryGaps
  readonly #proof: DeliveryProof
  readonly #losses: Losses
  readonly #log: Log
  readonly #listening: () => boolean
  readonly #onHealed: () => void
  #healedAt = Number.NEGATIVE_INFINITY
  #loggedAt = Number.NEGATIVE_INFINITY
  /** How often the listener was lost. */
  #outages = 0
  #replaying: Promise<void> = Promise.resolve()
  /** To how many clients the last replay has delivered messages, summed up. */
  #replayed = 0
  #stopped = false
  /** What is not connected. Nothing but what is read from the database is delivered meanwhile. */
  readonly #lost = new Set<Source>()
  /** Until when a failing replay is retried. */
  #deadline: number | undefined
  /** The timeline of the database server that was asked last: see MessageStore.timeline. */
  #timeline: string | undefined
  /** Whether the retention rules may have changed after they were read. */
  #stale = false
  #refreshing: Promise<void> | undefined

  constructor({ history, durable, incoming, hub, losses, log, listening, onHealed }: ReplayOptions) {
    this.#history = history
    this.#durable = durable
    this.#incoming = incoming
    this.#gaps = new HistoryGaps({ durable, hub })
    this.#proof = new DeliveryProof({ history, durable, incoming })
    this.#losses = losses
    this.#log = log
    this.#listening = listening
    this.#onHealed = onHealed
  }

  /** Reads the retention rules, and at first the last position. */
  async refresh(): Promise<void> {
    await this.#durable.refresh()
    if (this.#durable.installed && this.#incoming.floor === undefined) {
      this.#timeline = await this.#history.timeline()
      this.#incoming.startAt(await this.#history.latest())
    }
    if (this.#durable.secret !== undefined && this.#incoming.heard === undefined && this.#listening()) {
      const latest = await this.#history.latest()
      if (this.#incoming.heard === undefined) this.#incoming.follow(latest)
    }
  }

  /**
   * As `refresh`, but returns the error.
   * @returns undefined if it succeeded
   * @throws SchemaTooNew
   */
  async tryRefresh(): Promise<Error | undefined> {
    try {
      await this.refresh()
      return undefined
    } catch (error) {
      if (error instanceof errors.SchemaTooNew) throw error
      return asError(error)
    }
  }

  /** Calls `refresh` until it succeeds. Runs once at a time, however often any role sends a notification. */
  refreshLater(): Promise<void> {
    this.#stale = true
    this.#refreshing ??= this.#refreshStale().finally(() => {
      this.#refreshing = undefined
    })
    return this.#refreshing
  }

  async #refreshStale(): Promise<void> {
    try {
      while (this.#stale && !this.#stopped) {
        this.#stale = false
        if ((await this.tryRefresh()) === undefined) continue
        this.#stale = true
        await sleep(1000, undefined, { ref: false })
      }
    } catch (error) {
      this.#log.warn({ err: error }, `durable channels are unavailable: ${messageOf(error)}`)
    }
  }

  /** To be called when the connection of the listener or the bus is lost. Holds what arrives until a replay has ended. */
  lost(source: Source): void {
    this.#lost.add(source)
    this.#outages++
    this.#proof.interrupted()
    this.#incoming.hold()
  }

  /** See DeliveryProof.probe. */
  probe(): () => void {
    return this.#proof.probe()
  }

  /** To be called when it is connected again. Starts the replay. */
  reconnected(source: Source): void {
    this.#lost.delete(source)
    const outage = this.#outages
    // One at a time. If the listener is lost again during a replay, the next replay continues where this one ended.
    this.#replaying = this.#replaying.then(() => this.#replayMissed(outage))
  }

  /**
   * Delivers what was stored while the bus does not carry it, and what has arrived by notifications. What arrives from then on
   * waits, if the connection of the bus is lost.
   */
  poll(): Promise<void> {
    const outage = this.#outages
    this.#replaying = this.#replaying.then(async () => {
      if (outage !== this.#outages || this.#stopped) return
      // The sequencer may be away, too.
      await this.#history.catchUp()
      const read = await this.#readMissed(outage).then(
        () => true,
        () => false
      )
      if (read && outage === this.#outages && !this.#lost.has('listener')) this.#incoming.deliverWaiting()
    })
    return this.#replaying
  }

  /** To be called when notifications are missing although the listener is connected. Starts a replay. */
  gapFound(): void {
    const outage = this.#outages
    this.#replaying = this.#replaying.then(() => this.#heal(outage))
  }

  /** Never rejects. */
  async #heal(outage: number): Promise<void> {
    const incoming = this.#incoming
    const wait = this.#healedAt + HEALING_INTERVAL - performance.now()
    if (wait > 0) await sleep(wait, undefined, { ref: false })
    this.#healedAt = performance.now()
    if (outage !== this.#outages || this.#stopped) return
    const heard = incoming.heard
    incoming.cover()
    // Only one query, because any role can send a notification that looks as if others before it were missing.
    const latest = await this.#history.latest().catch(() => undefined)
    if (outage !== this.#outages) return
    if (heard !== undefined && latest === heard) {
      this.#release()
      return
    }
    // Everything that was announced up to here has been delivered.
    if (heard !== undefined) incoming.startAt(heard)
    this.#replayed = 0
    await this.#replayMissed(outage)
    // The replay was given up, or the listener was lost.
    if (incoming.heard === undefined || outage !== this.#outages) return
    // Over a bus, a beat may be missing alone, or with messages of others.
    if (heard === undefined && this.#replayed === 0) return
    this.#onHealed()
    if (performance.now() - this.#loggedAt < LOG_INTERVAL) return
    this.#loggedAt = performance.now()
    this.#log.warn(
      { after: heard },
      'notifications were missing: read the messages of durable channels from the database'
    )
  }

  stop(): void {
    this.#stopped = true
  }

  /**
   * Delivers the missed messages of durable channels, before anything newer. Readers of all channels wait for this, so a
   * replay that does not succeed within PATIENCE is given up.
   * @param outage the value of `#outages`. If it has changed, the listener was lost again, and the next replay continues
   */
  async #replayMissed(outage: number): Promise<void> {
    this.#deadline = undefined
    for (let wait = 100; outage === this.#outages && !this.#stopped; wait = Math.min(wait * 2, 2000)) {
      try {
        await this.#readMissed(outage)
        if (outage === this.#outages) this.#release()
        return
      } catch (error) {
        this.#deadline ??= performance.now() + PATIENCE
        if (isPermanent(error) || performance.now() >= this.#deadline) {
          this.#giveUp(outage, error)
          return
        }
        this.#log.warn(
          { err: error },
          'could not read the messages that durable channels missed, trying again'
        )
        await sleep(wait)
      }
    }
  }

  /** Delivers what was missed up to now. Ends early if the listener or the bus is lost again. */
  async #readMissed(outage: number): Promise<void> {
    const incoming = this.#incoming
    const { epoch } = this.#durable
    await this.refresh()
    const { floor } = incoming
    if (floor === undefined || !this.#durable.installed) return
    const latest = await this.#history.latest()
    if (this.#durable.epoch !== epoch || latest < floor) {
      // In the same epoch, a standby that lacked messages was promoted, and has not assigned new positions yet.
      if (this.#durable.epoch === epoch) this.#losses.add('diverged')
      this.#gaps.sendAll(null, latest)
      incoming.restart(latest)
    } else {
      const lost = (await this.#hasDiverged()) ? null : await this.#trimmedSince(floor)
      this.#gaps.sendAll(lost, latest)
    }
    for (let more = true; more && outage === this.#outages; ) {
      incoming.cover()
      const page = await this.#history.readAll(incoming.floor!)
      for (const { message, position } of page.messages) {
        if (typeof message === 'object') this.#replayed += incoming.replay(message, position)
        else {
          this.#losses.add(message, { position })
          incoming.startAt(position)
        }
      }
      this.#deadline = undefined
      more = page.more
    }
    if (outage !== this.#outages) return
    const covered = Math.max(latest, incoming.floor!)
    incoming.follow(this.#durable.secret === undefined ? undefined : covered)
    incoming.caughtUp(covered)
  }

  /** Delivers what waits, unless the listener or the bus is not connected. */
  #release(): void {
    if (this.#lost.size === 0) this.#incoming.release()
  }

  /**
   * Whether the database has other messages at the positions of delivered ones. After the failover to a standby that lacked
   * them, positions are assigned a second time, and a replay from the floor would leave out the new messages below it.
   */
  async #hasDiverged(): Promise<boolean> {
    const references = this.#incoming.sample.map((position): Reference => {
      return { table: 'message', position, channel: undefined }
    })
    const timeline = await this.#history.timeline()
    // On the same server, a difference means a forged notification: any role may send one with any position.
    const promoted = timeline !== this.#timeline && references.length > 0
    const found = promoted ? await this.#history.resolve(references) : new Map()
    // Only now, so that the next attempt checks again if the query has failed.
    this.#timeline = timeline
    const diverged = [...found.values()].some(
      (message) => typeof message === 'object' && !this.#incoming.isSample(message)
    )
    if (diverged) this.#losses.add('diverged')
    return diverged
  }

  /** Channels with deleted messages that were not delivered; null: it is not known which. */
  async #trimmedSince(position: number): Promise<string[] | null> {
    const channels = await this.#history.trimmedSince(position)
    if (channels === null) return null
    const { delivered } = this.#incoming
    return channels.filter(({ trimmed }) => !delivered.has(trimmed)).map(({ channel }) => channel)
  }

  /** See HistoryGaps.send. */
  sendGap(reference: Reference): void {
    this.#gaps.send(reference)
  }

  #giveUp(outage: number, error: unknown): void {
    if (outage !== this.#outages) return
    this.#losses.add('unreplayed', { err: error })
    this.#gaps.sendAll(null, 0)
    this.#incoming.follow(undefined)
    this.#release()
  }
}
