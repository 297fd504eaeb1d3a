import { setTimeout as sleep } from 'node:timers/promises'
import { type DurableChannels, LATEST, type Query } from './durable-channels.js'
import type { Format, Frame } from './hub.js'
import { largeMessage, type Message, type Reference, storedMessage } from './message.js'

/** At most so many messages, or some more than so many bytes, are read at once. */
const PAGE_ROWS = 500
const PAGE_BYTES = 4 * 1024 * 1024

/** Each channel's part is read from its own end of the index, however much there is of others. */
const BY_CHANNEL = `select m.* from unnest($2::text[]) c (name), lateral (
    select position, channel, body from pgws.messages where channel = c.name and position > $1
    order by position limit ${PAGE_ROWS}
  ) m`

/** A message that was read; encoded once for all who replay it. */
export class StoredMessage {
  readonly message: Message
  readonly position: number
  readonly #frames = new Map<Format, Frame>()

  constructor(message: Message) {
    this.message = message
    this.position = message.position!
  }

  frame(format: Format): Frame {
    let frame = this.#frames.get(format)
    if (frame === undefined) {
      frame = format.encode(this.message)
      this.#frames.set(format, frame)
    }
    return frame
  }
}

export interface Page {
  messages: StoredMessage[]
  /** Whether there are more. */
  more: boolean
}

/** What is left of a channel. */
export interface ChannelState {
  channel: string
  /** Up to which position its messages are gone. */
  trimmed: number
  /** The first position that is there. */
  oldest: number | null
}

interface Reader {
  after: number
  resolve: (page: Page) => void
  reject: (error: unknown) => void
}

export interface States {
  /** The last position of all. */
  latest: number
  channels: ChannelState[]
}

/** While many ask, the next query waits for so long after the last, in milliseconds, so that they share it. */
const GATHER = 25

/**
 * Runs one job at a time for all who ask: those who ask while it runs share the next. Nobody gets an answer that is
 * older than the question.
 */
class Shared<Request> {
  readonly #run: (requests: Request[]) => Promise<Request[]>
  readonly #onIdle: () => void
  #waiting: Request[] = []
  #working = false

  /**
   * @param run answers requests; resolves with those that have to go another round
   * @param onIdle called when nobody asks any more
   */
  constructor(run: (requests: Request[]) => Promise<Request[]>, onIdle: () => void) {
    this.#run = run
    this.#onIdle = onIdle
  }

  ask(request: Request): void {
    this.#waiting.push(request)
    if (!this.#working) this.#work()
  }

  async #work(): Promise<void> {
    this.#working = true
    // All who come in this turn of the event loop share the first one.
    await new Promise((resolve) => setImmediate(resolve))
    while (this.#waiting.length > 0) {
      const requests = this.#waiting
      this.#waiting = []
      const [again] = await Promise.all([this.#run(requests), sleep(GATHER)])
      this.#waiting.push(...again)
    }
    this.#working = false
    this.#onIdle()
  }
}

/** Reads stored messages. Those who ask for the same channels at the same time share one query. */
export class History {
  readonly #query: Query
  readonly #durable: DurableChannels
  readonly #readers = new Map<string, Shared<Reader>>()
  readonly #states = new Map<
    string,
    Shared<{ resolve: (states: States) => void; reject: Reader['reject'] }>
  >()

  constructor(query: Query, durable: DurableChannels) {
    this.#query = query
    this.#durable = durable
  }

  /**
   * Messages of some channels, in order.
   * @param after the position before the first
   */
  read(channels: readonly string[], after: number): Promise<Page> {
    const key = JSON.stringify(channels)
    let shared = this.#readers.get(key)
    if (shared === undefined) {
      shared = new Shared(
        (readers) => this.#serve(channels, readers),
        () => this.#readers.delete(key)
      )
      this.#readers.set(key, shared)
    }
    return new Promise((resolve, reject) => shared.ask({ after, resolve, reject }))
  }

  /** What is left of some channels, and the last position of all. */
  state(channels: readonly string[]): Promise<States> {
    const key = JSON.stringify(channels)
    let shared = this.#states.get(key)
    if (shared === undefined) {
      shared = new Shared(
        async (waiting) => {
          await this.#state(channels).then(
            (states) => {
              for (const { resolve } of waiting) resolve(states)
            },
            (error) => {
              for (const { reject } of waiting) reject(error)
            }
          )
          return []
        },
        () => this.#states.delete(key)
      )
      this.#states.set(key, shared)
    }
    return new Promise((resolve, reject) => shared.ask({ resolve, reject }))
  }

  /**
   * Messages of one channel, from its beginning or its end.
   * @param after only those after this position (in reverse: before it); undefined: all
   */
  async list(
    channel: string,
    { after, limit, reverse }: { after: number | undefined; limit: number; reverse: boolean }
  ): Promise<StoredMessage[]> {
    const { rows } = await this.#query(
      `select position::float8 as position, channel, body from pgws.messages
       where channel = $1 and position is not null and expires_at > clock_timestamp()
       and ($2::bigint is null or position ${reverse ? '<' : '>'} $2) order by position ${reverse ? 'desc' : 'asc'} limit $3`,
      [channel, after ?? null, limit]
    )
    return (rows as unknown as Row[]).map((row) => new StoredMessage(this.#message(row)))
  }

  /** Messages of all channels, in order. */
  async readAll(after: number): Promise<Page> {
    return this.#page('select position, channel, body from pgws.messages where position > $1', [after])
  }

  /** Channels whose messages after a position are partly gone; null: it is not known which. */
  async trimmedSince(position: number): Promise<string[] | null> {
    const { rows } = await this.#query(
      `select (select max(position) from pgws.forgotten) > $1 as forgotten,
        (select coalesce(json_agg(channel), '[]') from pgws.trimmed where position > $1) as channels`,
      [position]
    )
    const { forgotten, channels } = rows[0] as { forgotten: boolean; channels: string[] }
    return forgotten ? null : channels
  }

  /** The last position of all. */
  async latest(): Promise<number> {
    const { rows } = await this.#query(`select ${LATEST} as latest`)
    return rows[0]!.latest as number
  }

  /** The messages that references stand for, in one query for each kind; those that are gone are missing. */
  async resolve(references: readonly Reference[]): Promise<Map<Reference, Message>> {
    const found = new Map<Reference, Message>()
    for (const table of ['message', 'large'] as const) {
      const wanted = references.filter((reference) => reference.table === table)
      if (wanted.length === 0) continue
      const { rows } = await this.#query(
        table === 'message'
          ? 'select position::float8 as position, channel, body from pgws.messages where position = any($1)'
          : 'select id::float8 as position, channel, body from pgws.large where id = any($1)',
        [wanted.map(({ position }) => position)]
      )
      const byPosition = new Map(rows.map((row) => [row.position as number, row as unknown as Row]))
      for (const reference of wanted) {
        const row = byPosition.get(reference.position)
        if (row === undefined) continue
        found.set(reference, table === 'message' ? this.#message(row) : largeMessage(row.channel, row.body))
      }
    }
    return found
  }

  /** @returns those whose part is behind the end of the page */
  async #serve(channels: readonly string[], readers: Reader[]): Promise<Reader[]> {
    const again: Reader[] = []
    const after = Math.min(...readers.map((reader) => reader.after))
    try {
      const { messages, more } = await this.#page(BY_CHANNEL, [after, channels])
      const last = messages.at(-1)?.position ?? after
      for (const reader of readers) {
        if (more && reader.after >= last) again.push(reader)
        else reader.resolve({ messages: messages.filter(({ position }) => position > reader.after), more })
      }
    } catch (error) {
      for (const reader of readers) reader.reject(error)
    }
    return again
  }

  async #page(source: string, values: unknown[]): Promise<Page> {
    const { rows } = await this.#query(
      `select position::float8 as position, channel, body, found::int as found from (
        select position, channel, body, count(*) over () as found,
          sum(octet_length(body)::bigint) over (order by position) - octet_length(body) as before
        from (${source} order by position limit ${PAGE_ROWS}) page
      ) sized where before < ${PAGE_BYTES} order by position`,
      values
    )
    const messages = (rows as unknown as Row[]).map((row) => new StoredMessage(this.#message(row)))
    const found = (rows[0]?.found as number | undefined) ?? 0
    return { messages, more: found === PAGE_ROWS || messages.length < found }
  }

  async #state(channels: readonly string[]): Promise<States> {
    const { rows } = await this.#query(
      `select ${LATEST} as latest, (select max(position) from pgws.forgotten)::float8 as forgotten,
        (select json_agg(json_build_object('channel', c, 'trimmed', coalesce(t.position, 0), 'oldest',
          (select min(m.position) from pgws.messages m where m.channel = c and m.position is not null)))
        from unnest($1::text[]) c left join pgws.trimmed t on t.channel = c) as channels`,
      [channels]
    )
    const {
      latest,
      forgotten,
      channels: states
    } = rows[0] as {
      latest: number
      forgotten: number
      channels: ChannelState[]
    }
    return {
      latest,
      channels: states.map((state) => ({ ...state, trimmed: Math.max(state.trimmed, forgotten) }))
    }
  }

  #message({ position, channel, body }: Row): Message {
    return storedMessage(this.#durable.epoch, position, channel, body)
  }
}

interface Row {
  position: number
  channel: string
  body: string
}
