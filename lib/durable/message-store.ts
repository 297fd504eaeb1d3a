import type { LossReason, OnUnencodable } from '../channels/index.js'
import { largeMessage, type Message, type Reference, storedMessage } from '../messages/index.js'
import type { Query } from '../postgres/index.js'
import { LATEST, type RetentionRules } from './retention-rules.js'
import { SharedAnswers, SharedReads } from './shared-reads.js'
import { StoredMessage } from './stored-message.js'
import { Turns } from './turns.js'

/** The maximum number of messages, and of bytes, that are read at once. A larger message is read alone. */
const PAGE_ROWS = 500
const PAGE_BYTES = 1024 * 1024

/** Each channel is read from its own part of the index, so that the messages of others do not matter. */
const BY_CHANNEL = `select m.*
  from rows from (pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.int8[])) c (name, start), lateral (
    select position, channel, body from pgws.messages
    where channel operator(pg_catalog.=) c.name and position operator(pg_catalog.>) greatest($1, c.start)
    order by position limit ${PAGE_ROWS}
  ) m`

export interface Page {
  messages: StoredMessage[]
  /** Whether there are more. */
  more: boolean
}

/** A page of some channels. Readers that ask for the same at the same time get the same object. */
export interface ChannelPage extends Page {
  /** The position up to which messages of one of the channels had been deleted when the page was read. */
  trimmed: number
  /** The last position that is stored, or `trimmed` if that is greater. No reader of these channels is beyond it. */
  latest: number
}

/** Selects the messages of a channel to list. */
export interface ListOptions {
  /** Only messages after this position (with `reverse`, before it); undefined: from the first (with `reverse`, the last). */
  after: number | undefined
  /** The maximum number of messages. */
  limit: number
  /** The maximum number of bytes. The first message is listed even if it is larger. */
  maxBytes: number
  reverse?: boolean
}

/** The deleted messages of a channel. */
export interface Trimmed {
  channel: string
  /** The position up to which its messages have been deleted. */
  trimmed: number
}

/** The stored messages of a channel. */
export interface ChannelState extends Trimmed {
  /** The position of its oldest message; null if there is none. */
  oldest: number | null
}

/** The last messages of some channels, at one moment. */
export interface Tail {
  /** The last position of all at that moment. */
  latest: number
  /** For each channel, the position before the first of its messages; `latest` if it has none. */
  starts: number[]
}

interface Reader {
  after: number
  resolve: (page: ChannelPage) => void
  reject: (error: unknown) => void
}

export interface States {
  /** The last position in the database. */
  latest: number
  channels: ChannelState[]
}

/**
 * Reads stored messages. Clients that ask for the same channels at the same time share one query. All others take turns,
 * so that many readers do not exhaust the memory of this process or the pool.
 */
export class MessageStore {
  readonly #query: Query
  readonly #durable: RetentionRules
  readonly #turns: Turns
  readonly #onLost: (reason: LossReason, fields: object) => void
  readonly #readers = new Map<string, SharedReads<Reader>>()
  readonly #answers = new SharedAnswers()

  /**
   * @param readsAtOnce how many statements may read messages at the same time
   * @param onLost is called for rows that are not messages, and for messages that a format cannot encode
   */
  constructor(
    query: Query,
    durable: RetentionRules,
    readsAtOnce: number,
    onLost: (reason: LossReason, fields: object) => void
  ) {
    this.#query = query
    this.#onLost = onLost
    this.#durable = durable
    this.#turns = new Turns(readsAtOnce)
  }

  /**
   * Messages of some channels, in order.
   * @param after the position before the first
   * @param starts for each channel another such position, if its messages begin later
   */
  read(channels: readonly string[], after: number, starts: readonly number[] = []): Promise<ChannelPage> {
    const key = JSON.stringify([channels, starts])
    let shared = this.#readers.get(key)
    if (shared === undefined) {
      shared = new SharedReads(
        (readers) => this.#serve(key, channels, starts, readers),
        () => this.#readers.delete(key)
      )
      this.#readers.set(key, shared)
    }
    return new Promise((resolve, reject) => shared.ask({ after, resolve, reject }))
  }

  /** The state of some channels, and the last position in the database. */
  state(channels: readonly string[]): Promise<States> {
    return this.#answers.ask(JSON.stringify(channels), () => this.#state(channels))
  }

  /**
   * Where the last messages of some channels begin.
   * @param count the most of each channel
   * @param maxBytes the most bytes of all together; older messages are left out, though never the last one
   */
  tail(channels: readonly string[], count: number, maxBytes: number): Promise<Tail> {
    const key = JSON.stringify([channels, count])
    return this.#answers.ask(key, () => this.#turns.take(key, () => this.#tail(channels, count, maxBytes)))
  }

  /**
   * Announces what has been published from SQL so far, so that a client finds everything that was committed before. The
   * sequencer would do so within milliseconds. A failure is ignored, because the next round of the sequencer does the same.
   */
  async catchUp(): Promise<void> {
    await this.#query('select pgws.catch_up()').catch(() => {})
  }

  /**
   * Messages of one channel that have not expired, from its beginning or its end.
   * @param reader identifies who asks, because readers take turns
   */
  async list(
    channel: string,
    reader: string,
    { after, limit, maxBytes, reverse = false }: ListOptions
  ): Promise<Page> {
    const [beyond, direction] = reverse ? ['<', 'desc'] : ['>', 'asc']
    const left = `channel operator(pg_catalog.=) $1 and position is not null
      and expires_at operator(pg_catalog.>) pg_catalog.clock_timestamp()`
    const { rows } = await this.#turns.take(reader, () =>
      this.#query<SizedRow>(
        sized(
          `select position, channel, body, created_at from pgws.messages
           where ${left} and ($2::bigint is null or position operator(pg_catalog.${beyond}) $2)
           order by position ${direction} limit $3`,
          direction,
          4,
          ', pg_catalog.to_json(created_at) as time'
        ),
        [channel, after ?? null, limit, maxBytes]
      )
    )
    const { messages, found } = this.#pageOf(rows)
    if (found < limit || messages.length < found) return { messages, more: messages.length < found }
    const { rows: next } = await this.#query<{ more: boolean }>(
      `select exists (select from pgws.messages where ${left} and position operator(pg_catalog.${beyond}) $2) as more`,
      [channel, messages.at(-1)!.position]
    )
    return { messages, more: next[0]!.more }
  }

  /** Messages of all channels, in order. */
  async readAll(after: number): Promise<Page> {
    const source = `select position, channel, body from pgws.messages
      where position operator(pg_catalog.>) $1 order by position limit ${PAGE_ROWS}`
    return this.#page(source, [after])
  }

  /** Channels with deleted messages after a position; null: it is not known which. */
  async trimmedSince(position: number): Promise<Trimmed[] | null> {
    const { rows } = await this.#query<{ forgotten: boolean; channels: Trimmed[] }>(
      `select (select pg_catalog.max(position) from pgws.forgotten) operator(pg_catalog.>) $1 as forgotten,
        (select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('channel', channel, 'trimmed', position)), '[]') from pgws.trimmed
          where position operator(pg_catalog.>) $1) as channels`,
      [position]
    )
    const { forgotten, channels } = rows[0]!
    return forgotten ? null : channels
  }

  /**
   * The timeline of the database's server, which changes when a standby is promoted
   * (https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES).
   */
  async timeline(): Promise<string> {
    const { rows } = await this.#query<{ timeline: string }>(
      `select pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) as timeline`
    )
    return rows[0]!.timeline
  }

  /** The last position in the database. */
  async latest(): Promise<number> {
    const { rows } = await this.#query<{ latest: number }>(`select ${LATEST} as latest`)
    return rows[0]!.latest
  }

  /**
   * The messages that references to one table refer to, or why there is none. If they take more than a page, some are left
   * out. Ask for these again.
   */
  async resolve(references: readonly Reference[]): Promise<Map<Reference, Message | LossReason>> {
    const table = references[0]!.table
    const [rowsOf, key] = table === 'message' ? ['messages', 'position'] : ['large', 'id']
    const { rows } = await this.#query<Row>(
      `select pg_catalog.to_json(position) as position, channel,
         case when total operator(pg_catalog.<=) $2::pg_catalog.int8
           or total operator(pg_catalog.=) pg_catalog.octet_length(body) then body end as body
       from (
         select ${key} as position, channel, body,
           pg_catalog.sum(pg_catalog.octet_length(body)::pg_catalog.int8) over (order by ${key}) as total
         from pgws.${rowsOf} where ${key} operator(pg_catalog.=) any($1::pg_catalog.int8[])
       ) sized`,
      [references.map(({ position }) => position), PAGE_BYTES]
    )
    const byPosition = new Map(rows.map((row) => [row.position, row]))
    const found = new Map<Reference, Message | LossReason>()
    for (const reference of references) {
      const row = byPosition.get(reference.position)
      if (row === undefined) found.set(reference, 'gone')
      else if (row.body !== null) found.set(reference, this.#referred(table, row))
    }
    return found
  }

  /** @returns the readers whose messages come after the end of the page */
  async #serve(
    key: string,
    channels: readonly string[],
    starts: readonly number[],
    readers: Reader[]
  ): Promise<Reader[]> {
    const again: Reader[] = []
    const after = Math.min(...readers.map((reader) => reader.after))
    try {
      const { messages, ...rest } = await this.#turns.take(key, () =>
        this.#channelPage([after, channels, starts])
      )
      const last = messages.at(-1)?.position ?? after
      const pages = new Map<number, ChannelPage>()
      for (const reader of readers) {
        if (rest.more && reader.after >= last) {
          again.push(reader)
          continue
        }
        let page = pages.get(reader.after)
        if (page === undefined) {
          page = { messages: messages.filter(({ position }) => position > reader.after), ...rest }
          pages.set(reader.after, page)
        }
        reader.resolve(page)
      }
    } catch (error) {
      for (const reader of readers) reader.reject(error)
    }
    return again
  }

  async #page(source: string, values: unknown[]): Promise<Page> {
    const { rows } = await this.#query<SizedRow>(sized(source, 'asc', values.length + 1), [
      ...values,
      PAGE_BYTES
    ])
    return this.#fullPageOf(rows)
  }

  /** Reads in one statement, and so in one snapshot, what there is and what has been deleted. */
  async #channelPage(values: unknown[]): Promise<ChannelPage> {
    const source = `${BY_CHANNEL} order by position limit ${PAGE_ROWS}`
    const { rows } = await this.#query<SizedRow & { trimmed: number; stored: number | null }>(
      `select p.*,
        (select pg_catalog.to_json(pg_catalog.max(position)) from pgws.messages) as stored,
        pg_catalog.to_json(greatest(0, (select pg_catalog.max(position) from pgws.forgotten),
          (select pg_catalog.max(position) from pgws.trimmed
            where channel operator(pg_catalog.=) any($2::pg_catalog.text[])))) as trimmed
        from (select) one left join (${sized(source, 'asc', values.length + 1)}) p on true
        order by (p.position operator(pg_catalog.#>>) '{}')::pg_catalog.int8`,
      [...values, PAGE_BYTES]
    )
    const { trimmed, stored } = rows[0]!
    // Without messages there is one row, which has no position.
    const page = this.#fullPageOf(rows.filter(({ position }) => position !== null))
    return { ...page, trimmed, latest: Math.max(stored ?? 0, trimmed) }
  }

  #fullPageOf(rows: SizedRow[]): Page {
    const { messages, found } = this.#pageOf(rows)
    return { messages, more: found === PAGE_ROWS || messages.length < found }
  }

  #pageOf(rows: SizedRow[]): { messages: StoredMessage[]; found: number } {
    const messages = rows.map((row) => this.#stored(row))
    return { messages, found: rows[0]?.found ?? 0 }
  }

  async #state(channels: readonly string[]): Promise<States> {
    const { rows } = await this.#query<{ latest: number; forgotten: number; channels: ChannelState[] }>(
      `select ${LATEST} as latest, (select pg_catalog.to_json(pg_catalog.max(position)) from pgws.forgotten) as forgotten,
        (select pg_catalog.json_agg(pg_catalog.json_build_object('channel', c, 'trimmed', coalesce(t.position, 0), 'oldest',
          (select pg_catalog.min(m.position) from pgws.messages m
            where m.channel operator(pg_catalog.=) c and m.position is not null)))
        from pg_catalog.unnest($1::pg_catalog.text[]) c
        left join pgws.trimmed t on t.channel operator(pg_catalog.=) c) as channels`,
      [channels]
    )
    const { latest, forgotten, channels: states } = rows[0]!
    return {
      latest,
      channels: states.map((state) => ({ ...state, trimmed: Math.max(state.trimmed, forgotten) }))
    }
  }

  async #tail(channels: readonly string[], count: number, maxBytes: number): Promise<Tail> {
    const { rows } = await this.#query<{ latest: number; firsts: Record<string, number> }>(
      `with last as (
         select c.name, m.position, pg_catalog.octet_length(m.body) as size,
           pg_catalog.sum(pg_catalog.octet_length(m.body)::bigint) over (order by m.position desc) as total
         from pg_catalog.unnest($1::pg_catalog.text[]) c (name), lateral (
           select position, body from pgws.messages
           where channel operator(pg_catalog.=) c.name and position is not null
             and expires_at operator(pg_catalog.>) pg_catalog.clock_timestamp()
           order by position desc limit $2
         ) m
       )
       select ${LATEST} as latest, coalesce((select pg_catalog.json_object_agg(name, first) from (
         select name, pg_catalog.min(position) as first from last
         where total operator(pg_catalog.<=) $3::pg_catalog.int8 or total operator(pg_catalog.=) size group by name
       ) firsts), '{}') as firsts`,
      [channels, count, maxBytes]
    )
    const { latest, firsts } = rows[0]!
    return {
      latest,
      starts: channels.map((channel) => (Object.hasOwn(firsts, channel) ? firsts[channel]! - 1 : latest))
    }
  }

  #referred(table: Reference['table'], { position, channel, body }: Row): Message | LossReason {
    if (table === 'large') return largeMessage(channel, body) ?? 'malformed'
    return this.#message(position, channel, body)
  }

  #stored({ position, channel, body, time }: SizedRow): StoredMessage {
    const onUnencodable: OnUnencodable = (_, error) => this.#onLost('unencodable', { err: error, position })
    const message = this.#message(position, channel, body)
    if (time !== undefined) message.time = time
    return new StoredMessage(message, onUnencodable)
  }

  #message(position: number, channel: string, body: string): Message {
    const message = storedMessage(this.#durable.epoch, position, channel, body)
    if (message.serverEvent !== undefined) this.#onLost('malformed', { position })
    return message
  }
}

interface Row {
  position: number
  channel: string
  /** Null if it is left out. */
  body: string
}

interface SizedRow extends Row {
  /** The number of rows that the query selected. */
  found: number
  /** When the message was published; listed messages only. */
  time?: string
}

/**
 * Limits a query to the first messages with a total size, but at least one. The size of a body that is stored out of line
 * is known without reading it (TOAST, https://www.postgresql.org/docs/current/storage-toast.html).
 * @param maxBytes the number of the parameter with the size
 * @param more further columns
 */
function sized(source: string, direction: string, maxBytes: number, more = ''): string {
  return `select pg_catalog.to_json(position) as position, channel, body, found::int as found${more} from (
      select *, pg_catalog.count(*) over () as found,
        pg_catalog.sum(pg_catalog.octet_length(body)::bigint) over (order by position ${direction}) as total
      from (${source}) page
    ) sized where total operator(pg_catalog.<=) $${maxBytes} or total operator(pg_catalog.=) pg_catalog.octet_length(body) order by sized.position ${direction}`
}
