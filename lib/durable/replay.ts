import { setTimeout as sleep } from 'node:timers/promises'
import type { Hub, IncomingQueue, Losses } from '../channels/index.js'
import { errors, isPermanent, messageOf } from '../errors.js'
import type { Log } from '../log.js'
import type { Reference } from '../messages/index.js'
import type { MessageStore, Page } from './message-store.js'
import type { RetentionRules } from './retention-rules.js'

export interface ReplayOptions {
  history: Pick<MessageStore, 'timeline' | 'latest' | 'readAll' | 'resolve' | 'trimmedSince'>
  durable: Pick<RetentionRules, 'refresh' | 'installed' | 'epoch' | 'secret' | 'ageOf' | 'historyGap'>
  incoming: IncomingQueue
  hub: Hub
  losses: Losses
  log: Log
  /** Whether the listener is connected. */
  listening: () => boolean
  /** Called when missing notifications have been made good. */
  onHealed: () => void
}

/** For how long what the listener missed is asked for, where the database does not answer, in milliseconds. */
const PATIENCE = 10_000

/** The minimum interval between two attempts to find what is missing, in milliseconds: anybody can cause them. */
const HEALING_INTERVAL = 100

/** How often it is logged that notifications are missing, in milliseconds. */
const LOG_INTERVAL = 60_000

/** A name of more bytes is not in references (pgws.short). */
const SHORT_NAME = 1000

/** Catches this server up with what its listener missed. A client's own catch-up is lib/clients/catch-up.ts. */
export class Replay {
  readonly #history: ReplayOptions['history']
  readonly #durable: ReplayOptions['durable']
  readonly #incoming: IncomingQueue
  readonly #hub: Hub
  readonly #losses: Losses
  readonly #log: Log
  readonly #listening: () => boolean
  readonly #onHealed: () => void
  #healedAt = Number.NEGATIVE_INFINITY
  #loggedAt = Number.NEGATIVE_INFINITY
  /** How often the listener was lost. */
  #outages = 0
  /** The last position, as the database has said after the incoming queue was marked, and before the next probe. */
  #latest: number | undefined
  #asking = false
  #replaying: Promise<void> = Promise.resolve()
  #stopped = false
  /** That of the server that was asked last: see MessageStore.timeline. */
  #timeline: string | undefined
  /** What is durable may have changed since the database was asked. */
  #stale = false
  #refreshing: Promise<void> | undefined

  constructor({ history, durable, incoming, hub, losses, log, listening, onHealed }: ReplayOptions) {
    this.#history = history
    this.#durable = durable
    this.#incoming = incoming
    this.#hub = hub
    this.#losses = losses
    this.#log = log
    this.#listening = listening
    this.#onHealed = onHealed
  }

  /** Asks the database again what is durable. */
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
   * @returns why the database did not say it; undefined where it did
   * @throws SchemaTooNew
   */
  async tryRefresh(): Promise<Error | undefined> {
    try {
      await this.refresh()
      return undefined
    } catch (error) {
      if (error instanceof errors.SchemaTooNew) throw error
      return error as Error
    }
  }

  /** Asks the database as soon as it answers: one question at a time, however often any role notifies us. */
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

  /** Something may be missing before what comes next. */
  listenerLost(): void {
    this.#outages++
    this.#latest = undefined
    this.#incoming.hold()
  }

  /**
   * A probe of the listener is about to be sent.
   * @returns to be called when it has arrived: all notifications of earlier commits have, too
   */
  probe(): () => void {
    const outage = this.#outages
    const latest = this.#latest
    return () => {
      if (outage !== this.#outages) return
      if (latest !== undefined && this.#incoming.prove(latest)) this.#latest = undefined
      // Its answer is for the next probe, so that none has to wait for the pool.
      if (this.#latest === undefined && !this.#asking) this.#askLatest(outage)
    }
  }

  /** Never rejects: a failure is made good by the next probe. */
  async #askLatest(outage: number): Promise<void> {
    if (!this.#durable.installed) return
    this.#asking = true
    this.#incoming.mark()
    try {
      const latest = await this.#history.latest()
      if (outage === this.#outages) this.#latest = latest
    } catch {
    } finally {
      this.#asking = false
    }
  }

  /** Begins to replay what was missed. */
  listenerReconnected(): void {
    const outage = this.#outages
    // One after the other: where the listener was lost again during a replay, the next goes on where that ended.
    this.#replaying = this.#replaying.then(() => this.#replayMissed(outage))
  }

  /** To be called when notifications are missing on a connection that is there: they are replayed, too. */
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
    // One question, because any role can notify a message that looks as if others were missing before it.
    const latest = await this.#history.latest().catch(() => undefined)
    if (outage !== this.#outages) return
    if (heard !== undefined && latest === heard) {
      incoming.release()
      return
    }
    // What was announced up to here was delivered: the database has said so.
    if (heard !== undefined) incoming.startAt(heard)
    await this.#replayMissed(outage)
    // Given up, or the listener was lost.
    if (incoming.heard === undefined || outage !== this.#outages) return
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
   * After the listener was away: what durable channels missed goes to the open sockets, before anything newer.
   * What cannot be read within some time is given up: all wait for it, those of other channels, too.
   * @param outage which one: where the listener is lost again meanwhile, the next replay goes on from here
   */
  async #replayMissed(outage: number): Promise<void> {
    const incoming = this.#incoming
    let deadline: number | undefined
    for (let wait = 100; outage === this.#outages && !this.#stopped; wait = Math.min(wait * 2, 2000)) {
      try {
        const { epoch } = this.#durable
        await this.refresh()
        const { floor } = incoming
        if (floor === undefined || !this.#durable.installed) {
          if (outage === this.#outages) incoming.release()
          return
        }
        const latest = await this.#history.latest()
        if (this.#durable.epoch !== epoch || latest < floor) {
          // The same epoch: a standby that lacked messages was promoted, and has given no new ones their positions yet.
          if (this.#durable.epoch === epoch) this.#losses.add('diverged')
          this.#tellHistoryGap(null, latest)
          incoming.restart(latest)
        } else {
          const lost = (await this.#hasDiverged()) ? null : await this.#trimmedSince(floor)
          this.#tellHistoryGap(lost, latest)
        }
        for (let more = true; more && outage === this.#outages; ) {
          incoming.cover()
          const page: Page = await this.#history.readAll(incoming.floor!)
          for (const { message } of page.messages) incoming.replay(message)
          deadline = undefined
          more = page.more
        }
        if (outage !== this.#outages) return
        incoming.follow(this.#durable.secret === undefined ? undefined : Math.max(latest, incoming.floor!))
        incoming.release()
        return
      } catch (error) {
        deadline ??= performance.now() + PATIENCE
        if (isPermanent(error) || performance.now() >= deadline) {
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

  /**
   * Whether the database has other messages at the positions of those that were delivered: after the failover to a
   * standby that lacked them, positions are given a second time, and what is at or below the floor would not be missed.
   */
  async #hasDiverged(): Promise<boolean> {
    const references = this.#incoming.sample.map((position): Reference => {
      return { table: 'message', position, channel: undefined }
    })
    const timeline = await this.#history.timeline()
    // What differs on the same server was forged: any role may notify a message with any position.
    const promoted = timeline !== this.#timeline && references.length > 0
    const found = promoted ? await this.#history.resolve(references) : new Map()
    // Only now: where the database did not answer, the next try asks again.
    this.#timeline = timeline
    const diverged = [...found.values()].some(
      (message) => typeof message === 'object' && !this.#incoming.isSample(message)
    )
    if (diverged) this.#losses.add('diverged')
    return diverged
  }

  /** Channels of which something is gone that was not delivered; null: it is not known which. */
  async #trimmedSince(position: number): Promise<string[] | null> {
    const channels = await this.#history.trimmedSince(position)
    if (channels === null) return null
    const { delivered } = this.#incoming
    return channels.filter(({ trimmed }) => !delivered.has(trimmed)).map(({ channel }) => channel)
  }

  /** Tells the readers of a durable message that it is given up. */
  tellLost({ channel, position }: Reference): void {
    const concerned = channel === undefined ? this.#durableChannels().filter(isLong) : [channel]
    for (const name of concerned) {
      if (this.#durable.ageOf(name) === undefined) continue
      this.#hub.deliver(this.#durable.historyGap(name, null, null, position))
    }
  }

  #giveUp(outage: number, error: unknown): void {
    if (outage !== this.#outages) return
    this.#losses.add('unreplayed', { err: error })
    this.#tellHistoryGap(null, 0)
    this.#incoming.follow(undefined)
    this.#incoming.release()
  }

  /** @param channels null: all that are durable */
  #tellHistoryGap(channels: readonly string[] | null, latest: number): void {
    const concerned =
      channels?.filter((channel) => this.#hub.hasListeners(channel)) ?? this.#durableChannels()
    for (const channel of concerned) this.#hub.deliver(this.#durable.historyGap(channel, null, null, latest))
  }

  /** Those that somebody has joined. */
  #durableChannels(): string[] {
    const joined = this.#hub.summary().map(({ channel }) => channel)
    return joined.filter((channel) => this.#durable.ageOf(channel) !== undefined)
  }
}

function isLong(channel: string): boolean {
  return Buffer.byteLength(channel) > SHORT_NAME
}
