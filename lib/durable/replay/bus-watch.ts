import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../../errors.js'
import type { EventLog } from '../../events/index.js'
import type { Log } from '../../log.js'
import type { Replay } from './replay.js'

/** After how long without a beat the database is asked what was announced, in milliseconds. The sequencer sends two a second. */
const PATIENCE = 3000

/** How long messages wait when the connection of the bus is lost, before they are read from the database, in milliseconds. */
const HOLD = 2000

/** How often they are read then, in milliseconds. A fifth more or less, so that nodes do not ask at the same time. */
const INTERVAL = 1000

export interface BusWatchOptions {
  replay: Pick<Replay, 'lost' | 'reconnected' | 'poll'>
  /** Whether the sequencer announces over the bus. If it has none, the database notifies as it does without a bus. */
  byBus: () => Promise<boolean>
  events: EventLog
  log: Log
}

/** The state of the bus, as `GET /health` shows it. */
export interface BusWatchState {
  /** Why messages are read from the database once a second; undefined if the bus carries them. */
  failure: string | undefined
  /** Whether the sequencer is a server without a bus. */
  bypassed: boolean
}

/**
 * Notices that the bus is away: its connection is lost, or beats do not come. Until they are back, messages are read from
 * the database once a second, so that they arrive late, but complete and in order.
 */
export class BusWatch {
  readonly #options: BusWatchOptions
  #lastBeat = performance.now()
  #failure: string | undefined
  #bypassed = false
  #connected = true
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor(options: BusWatchOptions) {
    this.#options = options
  }

  get state(): BusWatchState {
    return { failure: this.#failure, bypassed: this.#bypassed }
  }

  /** To be called when the bus is connected. */
  start(): void {
    this.#lastBeat = performance.now()
    this.#timer ??= setInterval(() => this.#check(), INTERVAL / 2).unref()
  }

  stop(): void {
    this.#stopped = true
    clearInterval(this.#timer)
  }

  /** To be called for each beat that arrives. */
  beat(): void {
    this.#lastBeat = performance.now()
    this.#bypassed = false
    if (this.#failure !== undefined && this.#connected) this.#back()
  }

  /** To be called when the connection of the bus is lost. */
  interrupted(error: Error): void {
    this.#connected = false
    this.#away(messageOf(error), HOLD)
  }

  /** To be called when it is back. */
  restored(): void {
    this.#connected = true
    this.#lastBeat = performance.now()
    this.#back()
  }

  async #check(): Promise<void> {
    if (this.#failure !== undefined || performance.now() - this.#lastBeat < PATIENCE) return
    const seen = this.#lastBeat
    const byBus = await this.#isByBus()
    if (this.#stopped || seen !== this.#lastBeat || this.#failure !== undefined) return
    if (!byBus) this.#bypass()
    else this.#away('the sequencer is not heard', 0)
  }

  #isByBus(): Promise<boolean> {
    return this.#options.byBus().catch(() => true)
  }

  /** The bus carries nothing, so it does no harm if it is away. */
  #bypass(): void {
    this.#lastBeat = performance.now()
    this.#goOn()
    if (this.#bypassed || this.#stopped) return
    this.#bypassed = true
    const text =
      'the sequencer is a server without PGWS_BUS, so the database notifies every server: set it for all servers, or for none'
    this.#options.log.warn({}, text)
    this.#options.events.add('bus', { text, reason: 'bypassed' })
  }

  #away(failure: string, hold: number): void {
    const { replay, events, log } = this.#options
    if (this.#failure !== undefined || this.#stopped) return
    this.#failure = failure
    replay.lost('bus')
    log.warn({}, `the bus is away (${failure}): messages are read from the database once a second`)
    events.add('bus', {
      level: 'error',
      text: `the bus is away (${failure}): messages are read from the database once a second`,
      reason: 'away'
    })
    this.#poll(hold)
  }

  async #poll(hold: number): Promise<void> {
    await sleep(hold, undefined, { ref: false })
    while (this.#failure !== undefined && !this.#stopped) {
      await this.#options.replay.poll()
      if (!(await this.#isByBus())) this.#bypass()
      await sleep(INTERVAL * (0.8 + 0.4 * Math.random()), undefined, { ref: false })
    }
  }

  #back(): void {
    if (!this.#goOn()) return
    this.#options.log.info({}, 'the bus is back')
    this.#options.events.add('bus', { text: 'the bus is back', reason: 'back' })
  }

  /** @returns false if the bus was not away */
  #goOn(): boolean {
    if (this.#failure === undefined || this.#stopped) return false
    this.#failure = undefined
    this.#options.replay.reconnected('bus')
    return true
  }
}
