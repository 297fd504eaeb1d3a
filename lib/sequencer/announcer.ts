import { randomInt } from 'node:crypto'
import type { Announcement, Beat, Bus } from '../bus/index.js'
import { channelHash } from '../bus/index.js'
import { messageId } from '../messages/index.js'
import type { Query } from '../postgres/index.js'

/** The maximum number of messages, and of bytes, that are read and announced at once. A larger message is read alone. */
const BATCH = 2000
const BATCH_BYTES = 16 * 1024 * 1024

/** A larger message is announced without its text, which receivers read from the database, in bytes. */
const MAX_BYTES = 8 * 1024 * 1024

/**
 * The time between beats, in milliseconds. An announcement names the last beat, so that a node that lacks it reads from the
 * database first. A bus loses messages unnoticed where its servers lose each other. Those of NATS connect again after a second
 * at the earliest (routeReconnectDelay in nats-server), so each such loss takes a beat with it.
 */
const BEAT_INTERVAL = 400

/** A beat names at most so many channels. With more, it comes earlier. */
const MAX_CHANNELS = 5000

export interface AnnouncerOptions {
  /** This node's id. */
  node: string
  bus: Bus
  query: Query
  /** The epoch of the database. */
  epoch: () => string
}

/** A message behind the mark; all but `mark` are null if there is none. */
interface Row {
  /** Null if another node is the sequencer now. */
  mark: number | null
  place: number | null
  channel: string
  /** Null if it is too large. */
  body: string | null
  durable: boolean
}

/**
 * Announces messages over the bus, in the order of their positions. The database keeps the mark up to where that has been done, and
 * moves it on only after the bus has taken everything. So a message may be announced twice, by this node or by its successor,
 * and is never left out.
 */
export class Announcer {
  readonly #options: AnnouncerOptions
  /** Up to where this node has announced in this term. */
  #mark: number | undefined
  /** The last position of each channel that was announced after the last beat. */
  #announced = new Map<string, number>()
  /** The position up to which the last beat said that everything was announced. */
  #beatTo = 0
  #beatAt = Number.NEGATIVE_INFINITY
  /** The number of the last beat. Terms begin at random ones, so that no node has heard it in another term. */
  #beat = 0

  constructor(options: AnnouncerOptions) {
    this.#options = options
  }

  /** To be called when this node has become the sequencer. */
  begin(): void {
    this.#mark = undefined
    this.#announced.clear()
    this.#beatAt = Number.NEGATIVE_INFINITY
    this.#beat = randomInt(2 ** 47)
  }

  /**
   * Announces what is behind the mark, as much as fits.
   * @returns how many messages; undefined if another node is the sequencer now
   * @throws if the database or the bus does not answer; then all of it is announced again by the next call
   */
  async announce(term: string): Promise<number | undefined> {
    const { node, query, bus } = this.#options
    const { rows } = await query<Row>(LOG, [node, term, this.#mark ?? 0, BATCH, BATCH_BYTES, MAX_BYTES])
    const mark = rows[0]!.mark
    if (mark === null) return undefined
    if (this.#mark === undefined) {
      // What a predecessor has announced, and when, is not known. Whoever has heard less reads it from the database.
      this.#mark = mark
      this.#beatTo = mark
    }
    const places = rows.filter((row): row is Row & { place: number } => row.place !== null)
    const announced = new Map<string, number>()
    const batch = places.map((row) => this.#announcement(row, announced))
    const last = places.at(-1)?.place ?? this.#mark
    const beat = this.#beatIfDue(announced, last)
    if (batch.length > 0 || beat !== undefined) await bus.announce(batch, beat)
    this.#mark = last
    if (beat === undefined)
      for (const [channel, position] of announced) this.#announced.set(channel, position)
    else {
      this.#announced.clear()
      this.#beat = beat.number
      this.#beatTo = beat.to
      this.#beatAt = performance.now()
    }
    return batch.length
  }

  #announcement(
    { place, channel, body, durable }: Row & { place: number },
    announced: Map<string, number>
  ): Announcement {
    // Where nothing was announced after the last beat, the channel's last message came before it.
    const previous = announced.get(channel) ?? this.#announced.get(channel) ?? this.#beatTo
    announced.set(channel, place)
    return {
      channel,
      position: place,
      previous,
      beat: this.#beat,
      text: body === null ? undefined : this.#text(place, body, durable)
    }
  }

  /** The message as a notification has it: see pgws.notification. */
  #text(place: number, body: string, durable: boolean): string | undefined {
    if (!durable) return body
    // The id is inserted into an object that has members. Only a row that the owner has written by hand may have another body:
    // receivers read it from the database.
    return /^\{\s*"/.test(body)
      ? `{"id":"${messageId(this.#options.epoch(), place)}",${body.slice(1)}`
      : undefined
  }

  #beatIfDue(announced: ReadonlyMap<string, number>, to: number): Beat | undefined {
    const size = this.#announced.size + announced.size
    if (performance.now() - this.#beatAt < BEAT_INTERVAL && size < MAX_CHANNELS) return undefined
    const all = new Map([...this.#announced, ...announced])
    return {
      number: this.#beat + 1,
      from: this.#beatTo,
      to,
      channels: [...all].map(([channel, position]) => [channelHash(channel), position] as const)
    }
  }
}

/** Moves the mark on, and reads what is behind it. */
const LOG = `with m as materialized (select pgws.mark($1, $2, $3) as mark)
  select pg_catalog.to_json(m.mark) as mark, pg_catalog.to_json(l.place) as place, l.channel, l.durable,
    case when pg_catalog.octet_length(l.body) operator(pg_catalog.<=) $6 then l.body end as body
  from m left join lateral (
    select *, pg_catalog.sum(least(pg_catalog.octet_length(body), $6)::pg_catalog.int8) over (order by place) as total,
      pg_catalog.row_number() over (order by place) as number
    from pgws.log(m.mark, $4)
  ) l on l.total operator(pg_catalog.<=) $5 or l.number operator(pg_catalog.=) 1
  order by l.place`
