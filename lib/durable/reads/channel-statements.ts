import type { Query } from '../../postgres/index.js'
import { LATEST } from '../retention-rules.js'
import type { MessageRow } from '../stored-message.js'

/** The maximum number of messages, and of bytes, that one statement reads for all of its readers. A larger message is read alone. */
const MAX_ROWS = 5000
const MAX_BYTES = 1024 * 1024

/** What a reader may read of channels. */
export interface Wanted {
  channels: readonly string[]
  /** For each channel, the position before the first message. */
  starts: readonly number[]
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

/** What there is for one reader. */
export interface Found {
  /** Its first messages, in order. */
  rows: MessageRow[]
  /** Whether there may be more. */
  more: boolean
  /** The state of its channels, in their order. */
  channels: ChannelState[]
}

/** What one statement, and so one snapshot, sees. */
export interface Snapshot {
  /** The last position in the database; 0 if it was not asked for. */
  latest: number
  /** The last position that is stored; 0 if there is none. */
  stored: number
  /** For each reader. */
  found: Found[]
}

/** Of a message, the readers that get it; of the statement, what else it has found. */
interface Row extends MessageRow {
  readers: number[]
  rest: Rest | null
}

interface Rest {
  latest: number | null
  stored: number
  forgotten: number
  /** How many messages each reader has, up to its limit. Readers without messages are left out. */
  counts: Record<string, number>
  /** For each channel of each reader. */
  states: [trimmed: number, oldest: number | null][]
}

/**
 * Reads for many readers in one statement. Each channel is read from its own part of the index, so that the messages of
 * others do not matter. If there is more than a statement reads, the first messages of all readers come before the second
 * ones, so that those with many messages take nothing from the others. The size of a body that is stored out of line is
 * known without reading it (TOAST, https://www.postgresql.org/docs/current/storage-toast.html). A message of several
 * readers is read once.
 */
const READ = `with wanted as materialized (
    select reader, name, start, place
    from rows from (pg_catalog.unnest($1::pg_catalog.int4[]), pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.int8[]))
      with ordinality w (reader, name, start, place)
  ), first as materialized (
    select reader, position, size, turn, pg_catalog.count(*) over (partition by reader) as count,
      pg_catalog.row_number() over (partition by position order by turn, reader) as copy
    from (
      select w.reader, m.position, m.size, pg_catalog.row_number() over (partition by w.reader order by m.position) as turn
      from wanted w, lateral (
        select position, pg_catalog.octet_length(body)::pg_catalog.int8 as size from pgws.messages
        where channel operator(pg_catalog.=) w.name and position operator(pg_catalog.>) w.start
        order by position limit $4
      ) m
    ) numbered where turn operator(pg_catalog.<=) $4
  ), chosen as (
    select position, pg_catalog.json_agg(reader) as readers
    from (
      select reader, position, pg_catalog.row_number() over one_by_one as place,
        pg_catalog.sum(case when copy operator(pg_catalog.=) 1 then size else 0 end) over one_by_one as total
      from first window one_by_one as (order by turn, reader)
    ) summed
    where place operator(pg_catalog.=) 1 or place operator(pg_catalog.<=) ${MAX_ROWS} and total operator(pg_catalog.<=) ${MAX_BYTES}
    group by position
  )
  select pg_catalog.to_json(m.position) as position, m.channel, m.body, c.readers, null::pg_catalog.json as rest
  from chosen c, lateral (
    select position, channel, body from pgws.messages where position operator(pg_catalog.=) c.position limit 1
  ) m
  union all
  select null, null, null, null, pg_catalog.json_build_object(
    'latest', case when $5 then ${LATEST} end,
    'stored', (select coalesce(pg_catalog.max(position), 0) from pgws.messages),
    'forgotten', (select pg_catalog.max(position) from pgws.forgotten),
    'counts', (select coalesce(pg_catalog.json_object_agg(reader, count), '{}') from first where turn operator(pg_catalog.=) 1),
    'states', (select pg_catalog.json_agg(pg_catalog.json_build_array(
        coalesce((select t.position from pgws.trimmed t where t.channel operator(pg_catalog.=) w.name), 0),
        (select pg_catalog.min(m.position) from pgws.messages m
          where m.channel operator(pg_catalog.=) w.name and m.position is not null)
      ) order by w.place) from wanted w))`

/**
 * Reads the next messages of some readers, and the state of their channels.
 * @param limit the most messages of one reader
 * @param withLatest whether the last position is needed: it takes time if messages of very many channels were deleted
 */
export async function readChannels(
  query: Query,
  wanted: readonly Wanted[],
  { limit, withLatest }: { limit: number; withLatest: boolean }
): Promise<Snapshot> {
  const readers = wanted.flatMap(({ channels }, reader) => channels.map(() => reader))
  const names = wanted.flatMap(({ channels }) => channels)
  const starts = wanted.flatMap(({ starts }) => starts)
  const { rows } = await query<Row>(READ, [readers, names, starts, limit, withLatest])
  const { latest, stored, forgotten, counts, states } = rows.find(({ rest }) => rest !== null)!.rest!
  const found: Found[] = []
  let place = 0
  for (const { channels } of wanted) {
    const own = channels.map((channel): ChannelState => {
      const [trimmed, oldest] = states[place++]!
      return { channel, trimmed: Math.max(trimmed, forgotten), oldest }
    })
    found.push({ rows: [], more: false, channels: own })
  }
  const messages = rows
    .filter(({ rest }) => rest === null)
    .sort((one, other) => one.position - other.position)
  for (const row of messages) {
    for (const reader of row.readers) found[reader]!.rows.push(row)
  }
  for (const [reader, count] of Object.entries(counts)) {
    const own = found[Number(reader)]!
    own.more = count >= limit || own.rows.length < count
  }
  return { latest: latest ?? 0, stored, found }
}

/** The last messages of some channels, at one moment. */
export interface Tail {
  /** The last position of all at that moment. */
  latest: number
  /** For each channel, the position before the first of its messages; `latest` if it has none. */
  starts: number[]
}

/** The limits are those of each reader. Older messages are left out, though never the last one. */
const TAIL = `with last as (
    select reader, place, position, size,
      pg_catalog.sum(size) over (partition by reader order by position desc) as total
    from (
      select w.reader, w.place, m.position, m.size
      from rows from (pg_catalog.unnest($1::pg_catalog.int4[]), pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.int4[]))
        with ordinality w (reader, name, count, place), lateral (
          select position, pg_catalog.octet_length(body)::pg_catalog.int8 as size from pgws.messages
          where channel operator(pg_catalog.=) w.name and position is not null
            and expires_at operator(pg_catalog.>) pg_catalog.clock_timestamp()
          order by position desc limit w.count
        ) m
    ) sized
  )
  select ${LATEST} as latest, coalesce((select pg_catalog.json_object_agg(place, first) from (
    select place, pg_catalog.min(position) as first from last
    where total operator(pg_catalog.<=) $4::pg_catalog.int8 or total operator(pg_catalog.=) size group by place
  ) firsts), '{}') as firsts`

/** Selects the last messages of channels. */
export interface LastOf {
  channels: readonly string[]
  /** How many of each channel. */
  count: number
}

/**
 * Finds the last messages of channels, for some readers.
 * @param maxBytes the most bytes of each reader
 */
export async function readTails(query: Query, wanted: readonly LastOf[], maxBytes: number): Promise<Tail[]> {
  const { rows } = await query<{ latest: number; firsts: Record<string, number> }>(TAIL, [
    wanted.flatMap(({ channels }, reader) => channels.map(() => reader)),
    wanted.flatMap(({ channels }) => channels),
    wanted.flatMap(({ channels, count }) => channels.map(() => count)),
    maxBytes
  ])
  const { latest, firsts } = rows[0]!
  // Places begin with 1.
  let place = 0
  return wanted.map(({ channels }) => {
    const starts = channels.map(() => {
      const first = firsts[++place]
      return first === undefined ? latest : first - 1
    })
    return { latest, starts }
  })
}
