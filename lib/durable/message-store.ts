import type { LossReason, PlaceInChannel } from '../channels/index.js'
import { largeMessage, type Message, type Reference } from '../messages/index.js'
import type { Query } from '../postgres/index.js'
import type { Trimmed } from './reads/channel-statements.js'
import { sharedRun } from './reads/shared-run.js'
import type { Turns } from './reads/turns.js'
import { LATEST } from './retention-rules.js'
import type { MessageRow, StoredMessage, StoredMessages } from './stored-message.js'

/** The maximum number of messages, and of bytes, that are read at once. A larger message is read alone. */
const PAGE_ROWS = 500
const PAGE_BYTES = 1024 * 1024

export interface Page {
  messages: StoredMessage[]
  /** Whether there are more. */
  more: boolean
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

/** A page of the messages of all channels. */
export interface LogPage {
  messages: { position: number; message: Message | LossReason }[]
  more: boolean
}

/** Reads stored messages for this server, and lists those of a channel. Clients that resume use ChannelReads. */
export class MessageStore {
  readonly #query: Query
  readonly #messages: StoredMessages
  readonly #turns: Turns
  /** See `catchUp` and `lastPlace`. */
  readonly #catchUp = sharedRun(() => this.#announceAll())
  readonly #lastPlace = sharedRun(() => this.#readLastPlace())

  /** @param turns limits how many statements read messages at the same time */
  constructor(query: Query, messages: StoredMessages, turns: Turns) {
    this.#query = query
    this.#messages = messages
    this.#turns = turns
  }

  /**
   * Announces what has been published from SQL so far, so that a client finds everything that was committed before. The
   * sequencer would do so within milliseconds. A failure is ignored, because the next round of the sequencer does the same.
   */
  catchUp(): Promise<void> {
    return this.#catchUp()
  }

  async #announceAll(): Promise<void> {
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
    const { rows } = await this.#query<SizedRow>(sized(source, 'asc', 2), [after, PAGE_BYTES])
    const { messages, found } = this.#pageOf(rows)
    return { messages, more: found === PAGE_ROWS || messages.length < found }
  }

  /** Messages of all channels, in order, and those that nobody retains and that are still there: see pgws.log. */
  async readLog(after: number): Promise<LogPage> {
    const source = `select place as position, channel, body, durable from pgws.log($1, ${PAGE_ROWS})`
    const { rows } = await this.#query<SizedRow & { durable: boolean }>(
      sized(source, 'asc', 2, ', durable'),
      [after, PAGE_BYTES]
    )
    const messages = rows.map((row) => ({ position: row.position, message: this.#logged(row) }))
    const found = rows[0]?.found ?? 0
    return { messages, more: found === PAGE_ROWS || messages.length < found }
  }

  /** The places of messages that were published with keys, after a position. */
  async places(after: number, keys: readonly string[]): Promise<PlaceInChannel[]> {
    const { rows } = await this.#query<PlaceInChannel>(
      'select pg_catalog.to_json(place) as position, channel from pgws.places($1, $2::pg_catalog.text[])',
      [after, keys]
    )
    return rows
  }

  /** Whether the sequencer announces messages over a bus. */
  async byBus(): Promise<boolean> {
    const { rows } = await this.#query<{ by_bus: boolean }>('select pgws.by_bus() as by_bus')
    return rows[0]!.by_bus
  }

  /** The last position in the database, also of messages that nobody retains. Begins after the call. */
  lastPlace(): Promise<number> {
    return this.#lastPlace()
  }

  async #readLastPlace(): Promise<number> {
    const { rows } = await this.#query<{ latest: number }>(
      'select pg_catalog.to_json(pgws.last_place()) as latest'
    )
    return rows[0]!.latest
  }

  #logged(row: MessageRow & { durable: boolean }): Message | LossReason {
    if (row.durable) return this.#messages.message(row)
    return largeMessage(row.channel, row.body) ?? 'malformed'
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
    if (table === 'log') return this.#resolveLogged(references[0]!)
    const [rowsOf, key] = table === 'message' ? ['messages', 'position'] : ['large', 'id']
    const { rows } = await this.#query<ReferredRow>(
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
      else if (row.body !== null) found.set(reference, this.#referred(table, { ...row, body: row.body }))
    }
    return found
  }

  /** One by one, because a bus carries all but very large messages. */
  async #resolveLogged(reference: Reference): Promise<Map<Reference, Message | LossReason>> {
    const { rows } = await this.#query<MessageRow & { durable: boolean }>(
      'select pg_catalog.to_json(place) as position, channel, body, durable from pgws.log($1::pg_catalog.int8 operator(pg_catalog.-) 1, 1)',
      [reference.position]
    )
    const row = rows.find(({ position }) => position === reference.position)
    return new Map([[reference, row === undefined ? 'gone' : this.#logged(row)]])
  }

  #pageOf(rows: SizedRow[]): { messages: StoredMessage[]; found: number } {
    const messages = rows.map((row) => {
      const stored = this.#messages.of(row)
      if (row.time !== undefined) stored.message.time = row.time
      return stored
    })
    return { messages, found: rows[0]?.found ?? 0 }
  }

  #referred(table: Reference['table'], { position, channel, body }: MessageRow): Message | LossReason {
    if (table === 'large') return largeMessage(channel, body) ?? 'malformed'
    return this.#messages.message({ position, channel, body })
  }
}

/** A row that a reference refers to. */
interface ReferredRow extends Omit<MessageRow, 'body'> {
  /** Null if it is left out. */
  body: string | null
}

interface SizedRow extends MessageRow {
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
