import { setTimeout as sleep } from 'node:timers/promises'
import type { Bus } from '../bus/index.js'
import { messageOf } from '../errors.js'
import type { EventLog } from '../events/index.js'
import type { Log } from '../log.js'
import type { Query } from '../postgres/index.js'
import { Announcer } from './announcer.js'
import { Pause } from './pause.js'
import { type Lease, type Round, SequencerStatements } from './sequencer-statements.js'

/** Fractions of a node's timeout: how long a lease lasts, how often it is renewed, and how often other nodes ask for it. */
const LEASE = 0.5
const RENEWAL = 0.15
const CANDIDACY = 0.25

/** The pause after a round, in milliseconds. What is published in the meantime shares the next round. */
const PAUSE = 2

/** How much longer the pause is for each message of the round, up to a maximum, so that rounds leave time to busy writers. */
const PAUSE_PER_MESSAGE = 0.05
const MAX_PAUSE = 10

/** How long rounds continue when there is nothing to announce, in milliseconds. Then the sequencer sleeps. */
const STAY_AWAKE = 25

/**
 * How often a sleeping sequencer runs a round, in milliseconds. It is drowsy while transactions run that began before it
 * fell asleep, because those do not wake it.
 */
const DROWSY_INTERVAL = 20
const SLEEPING_INTERVAL = 1000
/** The same with a bus, where each round may send a beat. */
const SLEEPING_INTERVAL_WITH_BUS = 400

/** The interval in which the outbox is emptied, in milliseconds. */
const EMPTYING_INTERVAL = 1000

/** The minimum pause before a node asks for the lease again, in milliseconds. */
const MIN_PAUSE = 20

/** The pause after a failure, in milliseconds. */
const RETRY_INTERVAL = 200

/** How often a persistent failure is logged, in milliseconds. */
const LOG_INTERVAL = 60_000

/** How long a sequencer goes on without its bus before it lets another node take over, in milliseconds. */
const WITHOUT_BUS = 2000

/** How many timeouts of a node pass before a sequencer with a bus again lets nodes without one take over. */
const YIELDS_AGAIN = 10

/** In seconds. After a longer time without a sequencer, messages that are not durable and older than a minute are dropped. */
const LONG_ABSENCE = 60

export interface SequencerOptions {
  /** This node's id. */
  node: string
  /** How long a node may be silent before the others regard it as gone, in milliseconds. */
  nodeTimeout: number
  query: Query
  /** What carries the messages between nodes. */
  bus: Bus
  /** The epoch of the database. */
  epoch: () => string
  /**
   * Calls back when a writer has found the sequencer asleep. No other node is woken.
   * @returns a promise that resolves once that is so, with a function that ends it
   */
  listen: (woken: () => void) => Promise<() => Promise<void>>
  /** Whether the schema is known to be installed. */
  installed: () => boolean
  /** Whether there are nodes without a bus, which hear only what the database announces. */
  mixed: () => boolean
  events: EventLog
  log: Log
}

/** The state of the outbox, as `GET /health` shows it. */
export interface OutboxState {
  /** Whether this node is the sequencer. */
  sequencer: boolean
  /** The size of the outbox when it was last emptied, in bytes; undefined where another node is the sequencer. */
  bytes: number | undefined
  /** How many of its tables could not be emptied the last time, because a transaction or a dump has locked them. */
  blocked: number
  /** Why messages from SQL are not being announced, although this node should do it; undefined if all is well. */
  failure: string | undefined
}

/**
 * Announces the messages that are published from SQL, while the database says that this node is the sequencer. All state
 * that matters is in the database. So each message is announced once and in order, even if a node is killed in a round.
 */
export class Sequencer {
  readonly #options: SequencerOptions
  readonly #statements: SequencerStatements
  /** Undefined where the database announces each round itself. */
  readonly #announcer: Announcer | undefined
  #running: Promise<void> | undefined
  #closed = false
  readonly #pause = new Pause()
  /** Whether a writer has found the sequencer asleep. */
  #woken = false
  /**
   * Until when this node does not ask for the lease, because its bus is away or other nodes have none, and from when on it may
   * give the lease up for nodes without a bus again.
   */
  #yieldsUntil = 0
  #yieldsAgainAt = 0
  #leading = false
  #failure: string | undefined
  #loggedAt = Number.NEGATIVE_INFINITY

  constructor(options: SequencerOptions) {
    this.#options = options
    const { node, query, bus } = options
    this.#statements = new SequencerStatements({ node, query, overBus: bus.announces })
    this.#announcer = bus.announces ? new Announcer(options) : undefined
  }

  get state(): OutboxState {
    return {
      sequencer: this.#leading,
      bytes: this.#statements.bytes,
      blocked: this.#statements.blocked,
      failure: this.#failure
    }
  }

  /** To be called once it is known whether the schema is installed. */
  start(): void {
    this.#running ??= this.#run()
  }

  /** Stops, and lets another node take over at once. */
  async stop(): Promise<void> {
    this.#closed = true
    this.#pause.end()
    await this.#running
  }

  /** To be called when the bus is back. */
  busRestored(): void {
    this.#woken = this.#leading
    this.#pause.end()
  }

  /** To be called when there is no sequencer. */
  vacant(): void {
    if (!this.#leading) this.#pause.end()
  }

  async #run(): Promise<void> {
    const { nodeTimeout } = this.#options
    while (!this.#closed) {
      try {
        const lease = this.#options.installed() && !this.#yields ? await this.#lead() : undefined
        this.#failure = undefined
        if (lease !== undefined) await this.#listenAndServe(lease)
      } catch (error) {
        this.#fail(error)
        await this.#pause.take(RETRY_INTERVAL)
        continue
      } finally {
        this.#setLeading(false)
        this.#statements.ended()
      }
      await this.#pause.take(nodeTimeout * CANDIDACY * (0.8 + 0.4 * Math.random()))
      // Any role that may run SQL can end the pause above with a notification.
      await sleep(MIN_PAUSE)
    }
  }

  /** Requests or renews the lease. Returns undefined if another node holds it. */
  #lead(): Promise<Lease | undefined> {
    return this.#statements.lead(this.#options.nodeTimeout * LEASE)
  }

  async #listenAndServe(lease: Lease): Promise<void> {
    const stop = await this.#options.listen(() => {
      this.#woken = true
      this.#pause.end()
    })
    try {
      await this.#serve(lease)
    } finally {
      await stop()
    }
  }

  /** Whether another node should become the sequencer, because this one's bus is away, or because others have no bus. */
  get #yields(): boolean {
    const { bus, mixed } = this.#options
    if (this.#announcer === undefined || performance.now() >= this.#yieldsUntil) return false
    return !bus.up || mixed()
  }

  /** Runs rounds until this node stops, or another one has taken over. */
  async #serve({ term, absence }: Lease): Promise<void> {
    const statements = this.#statements
    const { nodeTimeout } = this.#options
    const sleepingInterval = this.#announcer === undefined ? SLEEPING_INTERVAL : SLEEPING_INTERVAL_WITH_BUS
    this.#setLeading(true)
    this.#announcer?.begin()
    let stale = absence > LONG_ABSENCE
    let renewAt = performance.now() + nodeTimeout * RENEWAL
    let emptyAt = 0
    let busUpAt = performance.now()
    let lastFound = performance.now()
    /** Undefined while awake. */
    let asleepSince: bigint | undefined
    for (;;) {
      const now = performance.now()
      if (this.#closed) return statements.resign(term)
      if (this.#options.bus.up) busUpAt = now
      else if (this.#announcer !== undefined && now - busUpAt > WITHOUT_BUS) {
        this.#yieldsUntil = now + nodeTimeout
        return statements.resign(term)
      }
      // If one of them becomes the sequencer, the database announces to all nodes. If there is none, because a role only
      // pretends to be a node, this one takes over again.
      if (this.#announcer !== undefined && now >= this.#yieldsAgainAt && this.#options.mixed()) {
        this.#yieldsUntil = now + nodeTimeout
        this.#yieldsAgainAt = now + YIELDS_AGAIN * nodeTimeout
        return statements.resign(term)
      }
      if (now >= renewAt) {
        if ((await this.#lead())?.term !== term) return
        renewAt = now + nodeTimeout * RENEWAL
      }
      if (this.#woken) {
        this.#woken = false
        asleepSince = undefined
        lastFound = now
      }
      const tired = asleepSince === undefined && now - lastFound > STAY_AWAKE
      const round = await statements.round(term, asleepSince === undefined ? tired : null, stale)
      this.#failure = undefined
      if (round.announced === null) return
      const placedAt = performance.now()
      const carried = await this.#carry(term)
      if (carried === undefined) return
      // Carrying holds no lock, so it leaves as much time to writers as a pause does.
      const carryTime = performance.now() - placedAt
      const found = round.announced > 0 || round.more || carried > 0
      if (found) {
        asleepSince = undefined
        lastFound = performance.now()
      } else if (tired) asleepSince = BigInt(round.asleep_since!)
      if (!round.more) stale = false
      if (now >= emptyAt) {
        if (!(await statements.empty(term))) return
        if (this.#announcer === undefined) await statements.beat()
        else await statements.turnPassing(term)
        emptyAt = performance.now() + EMPTYING_INTERVAL
      }
      if (asleepSince === undefined) await sleep(Math.max(0, pauseAfter(round) - carryTime))
      else if (BigInt(round.oldest) <= asleepSince) await this.#pause.take(DROWSY_INTERVAL)
      else await this.#pause.take(Math.min(sleepingInterval, renewAt - performance.now()))
    }
  }

  /**
   * Announces what has positions over the bus, if there is one. While the bus is away, it waits in the database.
   * @returns how many messages; undefined if another node is the sequencer now
   */
  async #carry(term: string): Promise<number | undefined> {
    if (this.#announcer === undefined || !this.#options.bus.up) return 0
    try {
      return await this.#announcer.announce(term)
    } catch (error) {
      this.#fail(error)
      await sleep(RETRY_INTERVAL)
      return 0
    }
  }

  #fail(error: unknown): void {
    if (this.#closed) return
    this.#failure = messageOf(error)
    if (performance.now() - this.#loggedAt < LOG_INTERVAL) return
    this.#loggedAt = performance.now()
    this.#options.log.warn(
      { err: error },
      'could not announce the messages that were published from SQL: they wait'
    )
    this.#options.events.add('sequencer', {
      level: 'error',
      text: `could not announce the messages that were published from SQL: they wait (${this.#failure})`,
      reason: 'failing'
    })
  }

  #setLeading(leading: boolean): void {
    if (leading === this.#leading) return
    this.#leading = leading
    const text = leading
      ? 'this node is the sequencer now: it announces what is published from SQL'
      : 'this node is not the sequencer any more'
    this.#options.events.add('sequencer', { text, reason: leading ? 'leading' : 'following' })
  }
}

/** How long to wait for the next round, in milliseconds. */
function pauseAfter({ announced, more }: Round): number {
  return more ? 0 : Math.min(PAUSE + PAUSE_PER_MESSAGE * announced!, MAX_PAUSE)
}
