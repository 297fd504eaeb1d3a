import type { PgQuery } from '../../postgres/index.js'
import type { Tables } from '../database/tables.js'
import {
  attempt,
  type BroadcastData,
  checkEvent,
  checkMessage,
  type Message,
  readAttachment,
  stored,
  textOf
} from '../packets/packet.js'
import type { Offset } from './offset.js'

/** How many packets a replay reads at once. */
const PAGE = 200

/** How long to wait before each new attempt to find a session, in milliseconds. A client may come back before it is saved. */
const SESSION_RETRIES = [20, 40, 80, 160, 300, 400, 500]

/** How much longer packets are kept than clients may be away, in milliseconds. */
const MARGIN = 10_000

/** The state of a client that Socket.IO restores. */
export interface Session {
  sid: string
  pid: string
  rooms: string[]
  data: unknown
}

/** A session with the time at which its client disconnected. */
export interface SavedSession extends Session {
  nsp: string
  /** Milliseconds since the epoch. */
  disconnectedAt: number
}

/** A packet in the table. */
export interface KeptPacket {
  position: number
  origin: string
  seq: number
  /** The message, or an error if the row holds none. */
  message: Message | Error
}

export interface RecoveryOptions {
  tables: Tables
  query: PgQuery
  /** How long a client may be away, in milliseconds. */
  maxDisconnectionDuration: number
  /** How long it may take to notice that a connection is dead, in milliseconds. */
  noticeTime: number
}

/** The tables of connection state recovery: packets in the order of their commits, and sessions. */
export class StateRecovery {
  readonly #options: RecoveryOptions
  #epoch = ''

  constructor(options: RecoveryOptions) {
    this.#options = options
  }

  /** Distinguishes the offsets of this database from those of another; empty until the database has been asked. */
  get epoch(): string {
    return this.#epoch
  }

  /** Reads the epoch of the database. */
  async refresh(): Promise<void> {
    const { query, tables } = this.#options
    const { rows } = await query(
      `select epoch from ${tables.recovery} where name operator(pg_catalog.=) 'turn'`
    )
    this.#epoch = rows[0].epoch
  }

  /** The last position of a namespace. */
  async last(nsp: string): Promise<number> {
    const { query, tables } = this.#options
    const { rows } = await query(
      `select pg_catalog.to_json(coalesce(pg_catalog.max(position), 0)) as last from ${tables.packets} where nsp operator(pg_catalog.=) $1`,
      [textOf(nsp)]
    )
    return rows[0].last
  }

  /** Stores sessions, in one statement. */
  async save(sessions: readonly SavedSession[]): Promise<void> {
    const { query, tables } = this.#options
    const now = Date.now()
    await query(
      // Times are by the database's clock, because they are compared with other times of the database.
      `insert into ${tables.sessions} as s (pid, nsp, body, disconnected_at)
       select distinct on (pid) pid, nsp, pg_catalog.decode(body, 'base64'), 
         pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.make_interval(secs => ago)
       from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
           pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.float8[]))
         n (pid, nsp, body, ago) order by pid, ago
       on conflict (pid) do update set body = excluded.body, disconnected_at = excluded.disconnected_at`,
      [
        sessions.map(({ pid }) => pid),
        sessions.map(({ nsp }) => textOf(nsp)),
        sessions.map(({ sid, rooms, data }) => stored.write({ sid, rooms, data })),
        sessions.map(({ disconnectedAt }) => (now - disconnectedAt) / 1000)
      ]
    )
  }

  /**
   * Removes a session from the table and returns it, so that it is used once. Waits for a session that is not saved yet.
   * @returns undefined if there is none, or it is too old
   */
  async take(nsp: string, pid: string): Promise<SavedSession | undefined> {
    if (pid.includes('\0')) return undefined
    const { query, tables, maxDisconnectionDuration } = this.#options
    for (const wait of [...SESSION_RETRIES, undefined]) {
      const { rows } = await query(
        `delete from ${tables.sessions} where pid operator(pg_catalog.=) $1 and nsp operator(pg_catalog.=) $2
         returning body,
           pg_catalog.to_json(extract(epoch from pg_catalog.clock_timestamp() operator(pg_catalog.-) disconnected_at)::pg_catalog.numeric) as away`,
        [pid, textOf(nsp)]
      )
      const [row] = rows
      if (row !== undefined) {
        const away = row.away * 1000
        if (away > maxDisconnectionDuration) return undefined
        // A node of this cluster has written it (see `save`).
        const { sid, rooms, data } = stored.read(row.body) as Session
        return { sid, pid, rooms, data, nsp, disconnectedAt: Date.now() - away }
      }
      if (wait !== undefined) await new Promise((resolve) => setTimeout(resolve, wait))
    }
    return undefined
  }

  /**
   * Reads how far the packets in the table go.
   * @returns `last`: the last position of a namespace; `top`: the last position of all namespaces; `seq`: the last number
   *   of a node
   */
  async state(nsp: string, origin: string): Promise<{ last: number; top: number; seq: number }> {
    const { query, tables } = this.#options
    const { rows } = await query(
      `select (select pg_catalog.to_json(coalesce(pg_catalog.max(position), 0)) from ${tables.packets} where nsp operator(pg_catalog.=) $1) as last,
        pg_catalog.to_json(greatest((select pg_catalog.max(position) from ${tables.packets}),
          (select pg_catalog.max(position) from ${tables.recovery}))) as top,
        (select pg_catalog.to_json(coalesce(pg_catalog.max(seq), 0)) from ${tables.packets} where origin operator(pg_catalog.=) $2) as seq`,
      [textOf(nsp), origin]
    )
    return rows[0]
  }

  /**
   * Reads the packets that a client has missed up to a position.
   * @returns undefined if some of them may have been deleted
   */
  async missed(
    nsp: string,
    { position, own }: Offset,
    last: number,
    { rooms, disconnectedAt }: SavedSession
  ): Promise<{ position: number; data: unknown[] }[] | undefined> {
    const { query, tables, noticeTime } = this.#options
    const { rows } = await query(
      `select pg_catalog.to_json(position) as position, origin, pg_catalog.to_json(seq) as seq, body, attachment
       from ${tables.packets} p
       where nsp operator(pg_catalog.=) $1 and position operator(pg_catalog.>) $2
         and position operator(pg_catalog.<=) $3 and rooms is not null
         and (rooms operator(pg_catalog.=) '{}' or rooms operator(pg_catalog.&&) $4::pg_catalog.text[])
         and not excluded operator(pg_catalog.&&) $4::pg_catalog.text[]
         and not (origin operator(pg_catalog.=) $5 and seq operator(pg_catalog.<=) $6)
       order by p.position`,
      [textOf(nsp), position, last, rooms.map(textOf), own?.uid ?? '', own?.seq ?? 0]
    )
    // This is read last, so that it includes what is deleted meanwhile.
    const { rows: trims } = await query(
      `select pg_catalog.to_json(position) as position,
         pg_catalog.to_json(extract(epoch from pg_catalog.clock_timestamp() operator(pg_catalog.-) at)::pg_catalog.numeric) as ago
       from ${tables.recovery} where name operator(pg_catalog.=) 'trimmed'`
    )
    const [trimmed] = trims
    // The last packet of a client that has got nothing for long may have been deleted. The client has got every packet that
    // is older than the last sign of life of its connection.
    const away = Date.now() - disconnectedAt
    if (position < trimmed.position && trimmed.ago * 1000 < away + noticeTime) return undefined
    return rows.map((row) => {
      // Only broadcasts are stored with rooms (see `keptOf`).
      const { packet } = messageOf(row).data as BroadcastData
      checkEvent(packet)
      return { position: row.position, data: packet.data }
    })
  }

  /**
   * Reads a page of the packets after a position.
   * @param maxAge the maximum age of packets that this node may have missed, in milliseconds
   * @returns the packets, whether there are more, and whether missed packets have been deleted
   */
  async page(
    nsp: string,
    after: number,
    maxAge: number
  ): Promise<{ packets: KeptPacket[]; more: boolean; trimmed: boolean }> {
    const { query, tables } = this.#options
    const { rows } = await query(
      `select pg_catalog.to_json(position) as position, origin, pg_catalog.to_json(seq) as seq, body, attachment
       from ${tables.packets} p
       where nsp operator(pg_catalog.=) $1 and position operator(pg_catalog.>) $2 order by p.position limit ${PAGE}`,
      [textOf(nsp), after]
    )
    const { rows: trims } = await query(
      `select position operator(pg_catalog.>) $1
         and at operator(pg_catalog.>) (pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.make_interval(secs => $2)) as trimmed
       from ${tables.recovery} where name operator(pg_catalog.=) 'trimmed'`,
      [after, maxAge / 1000]
    )
    const packets = rows.map((row) => ({
      position: row.position,
      origin: row.origin,
      seq: row.seq,
      message: attempt(() => messageOf(row))
    }))
    return { packets, more: rows.length === PAGE, trimmed: trims[0].trimmed }
  }

  /** Deletes packets and sessions that are too old for any client. */
  async clean(): Promise<void> {
    const { query, tables, maxDisconnectionDuration, noticeTime } = this.#options
    // Not clock_timestamp(), which is volatile, so that it is no condition for an index.
    await query(
      `with gone as (
         delete from ${tables.packets}
         where created_at operator(pg_catalog.<) (pg_catalog.statement_timestamp() operator(pg_catalog.-) pg_catalog.make_interval(secs => $1))
         returning position, created_at
       )
       update ${tables.recovery} r set position = greatest(r.position, g.position), at = greatest(r.at, g.at)
       from (select pg_catalog.max(position) as position, pg_catalog.max(created_at) as at from gone) g
       where r.name operator(pg_catalog.=) 'trimmed' and g.position is not null`,
      [(maxDisconnectionDuration + noticeTime + MARGIN) / 1000]
    )
    await query(
      `delete from ${tables.sessions}
       where disconnected_at operator(pg_catalog.<) (pg_catalog.statement_timestamp() operator(pg_catalog.-) pg_catalog.make_interval(secs => $1))`,
      [maxDisconnectionDuration / 1000]
    )
  }
}

/** Reads the message of a row. @throws Error if it holds none */
function messageOf({ body, attachment }: { body: string | null; attachment: Buffer | null }): Message {
  return body === null ? readAttachment(attachment!) : checkMessage(JSON.parse(body))
}
