import type { Query } from '../postgres/index.js'

/** The right to be the sequencer. */
export interface Lease {
  /** Grows whenever another node takes over. */
  term: string
  /** For how long there was no sequencer, in seconds. */
  absence: number
}

/** What `pgws.sequence` returns (lib/schema/sql/012-sequencer.sql). */
export interface Round {
  /** How many messages were announced; null if another node is the sequencer now. */
  announced: number | null
  more: boolean
  /** The id of the oldest running transaction. */
  oldest: string
  /** The id of a transaction. Older ones have not seen that the sequencer sleeps. */
  asleep_since: string | null
}

export interface SequencerStatementsOptions {
  /** This node's id. */
  node: string
  query: Query
  /** Whether messages are announced over a bus. */
  overBus: boolean
}

/** What the sequencer asks of the database, in the name of this node. */
export class SequencerStatements {
  readonly #options: SequencerStatementsOptions
  #bytes: number | undefined
  #blocked = 0
  /** The position up to which beats have said that everything was announced. */
  #lastBeat = 0

  constructor(options: SequencerStatementsOptions) {
    this.#options = options
  }

  /** The size of the outbox when it was last emptied, in bytes; undefined if this node has not done that in this term. */
  get bytes(): number | undefined {
    return this.#bytes
  }

  /** How many of its tables could not be emptied then, because a transaction or a dump has locked them. */
  get blocked(): number {
    return this.#blocked
  }

  /**
   * Requests or renews the lease.
   * @param duration how long it lasts, in milliseconds
   * @returns undefined if another node holds it
   */
  async lead(duration: number): Promise<Lease | undefined> {
    const { node, query, overBus } = this.#options
    const { rows } = await query<{ term: string | null; absence: number }>(
      `select l.term::pg_catalog.text as term, pg_catalog.to_json(extract(epoch from l.absence)::pg_catalog.numeric) as absence
       from pgws.${overBus ? 'lead_bus' : 'lead'}($1, $2::pg_catalog.float8 operator(pg_catalog.*) '1 millisecond'::pg_catalog.interval) l`,
      [node, duration]
    )
    const { term, absence } = rows[0]!
    return term === null ? undefined : { term, absence }
  }

  /** Gives the lease up. If that fails, it expires. */
  async resign(term: string): Promise<void> {
    await this.#options.query('select pgws.resign($1, $2)', [this.#options.node, term]).catch(() => {})
  }

  /** To be called when this node is not the sequencer any more: the size of the outbox is not known then. */
  ended(): void {
    this.#bytes = undefined
    this.#blocked = 0
  }

  /**
   * Gives positions to what was published, and, without a bus, announces it.
   * @param sleep whether writers have to wake the sequencer from now on; null: no change
   * @param stale whether old messages that nobody retains are dropped
   */
  async round(term: string, sleep: boolean | null, stale: boolean): Promise<Round> {
    const { rows } = await this.#options.query<Round>(
      `select announced, more, oldest, asleep_since from pgws.sequence($1, $2, $3,
        case when $4 then pg_catalog.clock_timestamp() operator(pg_catalog.-) '1 minute'::pg_catalog.interval end)`,
      [this.#options.node, term, sleep, stale]
    )
    return rows[0]!
  }

  /** Empties the outbox of what was announced. @returns false if another node is the sequencer now */
  async empty(term: string): Promise<boolean> {
    const { rows } = await this.#options.query<{ bytes: number | null; blocked: number }>(
      'select pg_catalog.to_json(bytes) as bytes, blocked from pgws.empty_outbox($1, $2)',
      [this.#options.node, term]
    )
    const { bytes, blocked } = rows[0]!
    if (bytes === null) return false
    this.#bytes = bytes
    this.#blocked = blocked
    return true
  }

  /** Deletes messages that nobody retains, some seconds after they were announced over a bus. */
  async turnPassing(term: string): Promise<void> {
    await this.#options.query('select pgws.turn_passing($1, $2)', [this.#options.node, term])
  }

  /** Announces the last position, unless nothing was announced after the last beat. A failed beat does no harm: see Replay. */
  async beat(): Promise<void> {
    try {
      const { rows } = await this.#options.query<{ latest: number }>(
        'select pg_catalog.to_json(pgws.beat($1)) as latest',
        [this.#lastBeat]
      )
      this.#lastBeat = rows[0]!.latest
    } catch {
      // The next beat says the same. A failure that lasts is one of the rounds, too, and is reported there.
    }
  }
}
