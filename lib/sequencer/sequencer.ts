import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../errors.js'
import type { Log } from '../log.js'
import type { Query } from '../postgres/index.js'

/** The parts of a node's timeout: for how long it stays the sequencer unseen, how often it says so, and others ask. */
const LEASE = 0.5
const RENEWAL = 0.15
const CANDIDACY = 0.25

/** The pause behind a round, in milliseconds: what is published meanwhile shares the next. */
const PAUSE = 2

/** How much longer it is for each message of the round, up to a maximum: of many writers, the rounds must not take the time. */
const PAUSE_PER_MESSAGE = 0.05
const MAX_PAUSE = 10

/** For how long it goes on looking when there is nothing to announce, in milliseconds, before it sleeps. */
const STAY_AWAKE = 25

/** How often a sleeping sequencer looks, in milliseconds: while transactions run that began before it slept, and after. */
const DROWSY_INTERVAL = 20
const SLEEPING_INTERVAL = 1000

/** How often the outbox is emptied, in milliseconds. */
const EMPTYING_INTERVAL = 1000

/** The least pause before a node asks again, in milliseconds. */
const MIN_PAUSE = 20

/** The pause behind a failure, in milliseconds. */
const RETRY_INTERVAL = 200

/** How often a failure that lasts is logged, in milliseconds. */
const LOG_INTERVAL = 60_000

/** Where there was no sequencer for longer, messages that nobody keeps are too old when they have waited for a minute. */
const LONG_ABSENCE = 60

export interface SequencerOptions {
  /** This node's id. */
  node: string
  /** After how much silence a node is gone, in milliseconds. */
  nodeTimeout: number
  query: Query
  /** Whether the schema is there, as far as is known. */
  installed: () => boolean
  log: Log
}

/** What is known of the outbox, as health shows it. */
export interface OutboxState {
  /** Whether this node is the sequencer. */
  sequencer: boolean
  /** The size of the outbox, as the sequencer has last seen it; undefined: it is another node. */
  bytes: number | undefined
  /** How many of its tables could not be emptied the last time, because a transaction, or a dump, holds them. */
  blocked: number
  /** Why what is published from SQL is not announced at present, where this node should do it. */
  failure: string | undefined
}

/** What a round answers (pgws.sequence in lib/schema/sql/012-sequencer.sql). */
interface Round {
  /** How many messages it has announced; null: another node is the sequencer now. */
  announced: number | null
  more: boolean
  /** The oldest transaction that runs. */
  oldest: string
  /** Older transactions than this one have not seen that the sequencer sleeps. */
  asleep_since: string | null
}

/**
 * Announces what is published from SQL: while this node is the one that does, which the database says. All that counts is
 * there, so whatever is killed when, each message is announced once, and in order.
 */
export class Sequencer {
  readonly #options: SequencerOptions
  #running: Promise<void> | undefined
  #closed = false
  /** Ends the pause under way. */
  #resume: (() => void) | undefined
  /** Somebody has called since the last pause. */
  #called = false
  /** A writer has found the sequencer asleep. */
  #woken = false
  #leading = false
  #bytes: number | undefined
  #blocked = 0
  #failure: string | undefined
  #loggedAt = Number.NEGATIVE_INFINITY

  constructor(options: SequencerOptions) {
    this.#options = options
  }

  get state(): OutboxState {
    return {
      sequencer: this.#leading,
      bytes: this.#bytes,
      blocked: this.#blocked,
      failure: this.#failure
    }
  }

  /** To be called once it is known whether the schema is there. */
  start(): void {
    this.#running ??= this.#run()
  }

  /** Lets another node take over. */
  async stop(): Promise<void> {
    this.#closed = true
    this.#call()
    await this.#running
  }

  /**
   * Takes what came on the channel of the sequencer: a writer has found it asleep, or it has ended.
   * @param payload `vacant`, or nothing
   */
  receive(payload: string): void {
    const vacant = payload === 'vacant'
    if (vacant === this.#leading) return
    this.#woken = !vacant
    this.#call()
  }

  async #run(): Promise<void> {
    const { nodeTimeout } = this.#options
    while (!this.#closed) {
      try {
        const lease = this.#options.installed() ? await this.#lead() : undefined
        this.#failure = undefined
        if (lease !== undefined) await this.#serve(lease)
      } catch (error) {
        this.#fail(error)
        await this.#pause(RETRY_INTERVAL)
        continue
      } finally {
        this.#leading = false
        this.#bytes = undefined
        this.#blocked = 0
      }
      await this.#pause(nodeTimeout * CANDIDACY * (0.8 + 0.4 * Math.random()))
      // Whoever may run SQL may call as often as he likes.
      await sleep(MIN_PAUSE)
    }
  }

  /** Asks to be the sequencer, or to stay so. */
  async #lead(): Promise<{ term: string; absence: number } | undefined> {
    const { node, nodeTimeout, query } = this.#options
    const { rows } = await query(
      `select l.term::pg_catalog.text as term, pg_catalog.to_json(extract(epoch from l.absence)::pg_catalog.numeric) as absence
       from pgws.lead($1, $2::pg_catalog.float8 operator(pg_catalog.*) '1 millisecond'::pg_catalog.interval) l`,
      [node, nodeTimeout * LEASE]
    )
    const { term, absence } = rows[0] as { term: string | null; absence: number }
    return term === null ? undefined : { term, absence }
  }

  /** Runs rounds until this node ends, or another one has taken over. */
  async #serve({ term, absence }: { term: string; absence: number }): Promise<void> {
    const { nodeTimeout } = this.#options
    this.#leading = true
    let stale = absence > LONG_ABSENCE
    let renewAt = performance.now() + nodeTimeout * RENEWAL
    let emptyAt = 0
    let lastFound = performance.now()
    /** Undefined while awake. */
    let asleepSince: bigint | undefined
    for (;;) {
      const now = performance.now()
      if (this.#closed) return this.#resign(term)
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
      const round = await this.#round(term, asleepSince === undefined ? tired : null, stale)
      if (round.announced === null) return
      const found = round.announced > 0 || round.more
      if (found) {
        asleepSince = undefined
        lastFound = performance.now()
      } else if (tired) asleepSince = BigInt(round.asleep_since!)
      if (!round.more) stale = false
      if (now >= emptyAt) {
        if (!(await this.#empty(term))) return
        emptyAt = performance.now() + EMPTYING_INTERVAL
      }
      if (asleepSince === undefined) await sleep(pauseAfter(round))
      else if (BigInt(round.oldest) <= asleepSince) await this.#pause(DROWSY_INTERVAL)
      else await this.#pause(Math.min(SLEEPING_INTERVAL, renewAt - performance.now()))
    }
  }

  /** @param sleep whether writers have to wake it; null: as it is */
  async #round(term: string, sleep: boolean | null, stale: boolean): Promise<Round> {
    const { rows } = await this.#options.query(
      `select announced, more, oldest, asleep_since from pgws.sequence($1, $2, $3,
        case when $4 then pg_catalog.clock_timestamp() operator(pg_catalog.-) '1 minute'::pg_catalog.interval end)`,
      [this.#options.node, term, sleep, stale]
    )
    this.#failure = undefined
    return rows[0] as unknown as Round
  }

  /** @returns false where another node is the sequencer now */
  async #empty(term: string): Promise<boolean> {
    const { rows } = await this.#options.query(
      'select pg_catalog.to_json(bytes) as bytes, blocked from pgws.empty_outbox($1, $2)',
      [this.#options.node, term]
    )
    const { bytes, blocked } = rows[0] as { bytes: number | null; blocked: number }
    if (bytes === null) return false
    this.#bytes = bytes
    this.#blocked = blocked
    return true
  }

  async #resign(term: string): Promise<void> {
    await this.#options.query('select pgws.resign($1, $2)', [this.#options.node, term]).catch(() => {})
  }

  #fail(error: unknown): void {
    if (this.#closed) return
    this.#failure = messageOf(error)
    if (performance.now() - this.#loggedAt < LOG_INTERVAL) return
    this.#loggedAt = performance.now()
    this.#options.log.warn({ err: error }, 'what was published from SQL waits: it could not be announced')
  }

  #call(): void {
    this.#called = true
    this.#resume?.()
  }

  /** Ends early where somebody calls, or has called since the last pause. */
  async #pause(milliseconds: number): Promise<void> {
    if (!this.#called) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, milliseconds).unref()
        this.#resume = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.#resume = undefined
    }
    this.#called = false
  }
}

/** How long to wait for the next round, in milliseconds. */
function pauseAfter({ announced, more }: Round): number {
  return more ? 0 : Math.min(PAUSE + PAUSE_PER_MESSAGE * announced!, MAX_PAUSE)
}
