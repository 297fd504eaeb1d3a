import { setTimeout as sleep } from 'node:timers/promises'
import { errors } from '../errors.js'
import type { Log } from '../log.js'
import { type Paging, readLimit } from '../page.js'
import type { Query } from '../postgres/index.js'
import type { Revocation, Revocations } from './revocations.js'

/** How long to wait before a failed query is repeated, in milliseconds. */
const RETRY_INTERVAL = 500

/** How often the list is compared with the database's, because a notification may be missing, in milliseconds. */
const CHECK_INTERVAL = 10_000

/** How long an answer waits until this server obeys, in milliseconds. */
const PATIENCE = 1000

/** The maximum size of a text of a revocation, in bytes. */
const MAX_BYTES = 1024

/** The number of revocations of a page. */
const DEFAULT_PAGE = 100

const YEAR_10000 = Date.UTC(10_000, 0)

const COLUMNS = `r.id::pg_catalog.text as id, r.jti, r.sub, case when pg_catalog.isfinite(r.issued_before) then pg_catalog.to_json(
  extract(epoch from r.issued_before)::pg_catalog.numeric operator(pg_catalog.*) 1000) end as "issuedBefore"`

/** A revocation, as `GET /revocations` shows it. Times are in ISO 8601. */
export interface RevocationSummary {
  id: string
  /** The claim `jti` of the revoked token; null: the tokens of `sub` are revoked. */
  jti: string | null
  /** The claim `sub` of the revoked tokens; null: the token with the `jti` is revoked. */
  sub: string | null
  /** Tokens of `sub` that were issued before this time are revoked. */
  issuedBefore: string | null
  /** When the last of the tokens expires, and the revocation with it; null: never. */
  expires: string | null
  reason: string | null
  /** The administrator or the database role. */
  revokedBy: string
  revokedAt: string
}

/** What to revoke: the token with a `jti`, or tokens of a `sub`. */
export interface RevocationRequest {
  jti?: string | undefined
  sub?: string | undefined
  /** Tokens of `sub` that were issued before this time are revoked. Default: now. */
  issuedBefore?: Date | undefined
  /** When the last of the tokens expires. The revocation is deleted then. Default: never. */
  expires?: Date | undefined
  /** For administrators. */
  reason?: string | undefined
  /** Who revokes it. Default: the server's database role. */
  revokedBy?: string | undefined
}

export interface RevocationListOptions {
  query: Query
  revocations: Revocations
  /** Whether the schema is installed. */
  installed: () => boolean
  /** Called after revocations were added or withdrawn. */
  onChange: () => void
  log: Log
}

/** Keeps the revocations of this server equal to those of the database. */
export class RevocationList {
  readonly #options: RevocationListOptions
  #timer: NodeJS.Timeout | undefined
  /** The ids of which a notification has arrived, and which have not been read. */
  #notified = new Set<string>()
  /** Whether all revocations must be read. */
  #stale = false
  #reading: Promise<void> | undefined

  constructor(options: RevocationListOptions) {
    this.#options = options
  }

  /** Begins to compare the list with the database's from time to time. */
  start(): void {
    this.#timer ??= setInterval(() => this.#check(), CHECK_INTERVAL).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /**
   * Takes a notification. Any role can send one, so it only says what to read.
   * @param payload the id of a revocation
   */
  receive(payload: string): void {
    if (!/^\d{1,18}$/.test(payload)) return
    this.#notified.add(payload)
    this.#readLater()
  }

  /** Reads all revocations, because notifications may be missing. Resolves when they have been read. */
  reload(): Promise<void> {
    this.#stale = true
    return this.#readLater()
  }

  /** One query at a time, however often any role sends a notification. Resolves when nothing is left to read. */
  #readLater(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined
    })
    return this.#reading
  }

  async #read(): Promise<void> {
    const { installed, onChange, log } = this.#options
    for (let failed = false; this.#stale || this.#notified.size > 0; ) {
      if (!installed()) {
        this.#stale = false
        this.#notified.clear()
        return
      }
      const ids = this.#stale ? undefined : [...this.#notified]
      this.#stale = false
      this.#notified.clear()
      try {
        await this.#readRows(ids)
        failed = false
        onChange()
      } catch (error) {
        if (!failed) log.warn({ err: error }, 'could not read the revoked tokens, trying again')
        failed = true
        this.#stale = true
        await sleep(RETRY_INTERVAL, undefined, { ref: false })
        if (this.#timer === undefined) return
      }
    }
  }

  /** @param ids undefined: all */
  async #readRows(ids: readonly string[] | undefined): Promise<void> {
    const { query, revocations } = this.#options
    if (ids === undefined) {
      const { rows } = await query<Revocation>(`select ${COLUMNS} from pgws.revocations r`)
      revocations.replace(rows)
      return
    }
    const { rows } = await query<Revocation>(
      `select ${COLUMNS} from pgws.revocations r where r.id operator(pg_catalog.=) any ($1::pg_catalog.int8[])`,
      [ids]
    )
    for (const id of ids) revocations.delete(id)
    for (const revocation of rows) revocations.add(revocation)
  }

  /** Reads all revocations if there are not as many as here. Never rejects. */
  async #check(): Promise<void> {
    const { query, revocations, installed } = this.#options
    if (!installed() || this.#reading !== undefined) return
    try {
      const { rows } = await query<{ count: number }>(
        'select pg_catalog.count(*)::pg_catalog.int4 as count from pgws.revocations'
      )
      if (this.#reading === undefined && rows[0]!.count !== revocations.size) await this.reload()
    } catch {
      // The next check asks again.
    }
  }

  /**
   * Revokes tokens. When it resolves, this server obeys; all others do within a second.
   * @returns the id of the revocation
   * @throws BadQuery (400), NotInstalled (501), DatabaseUnavailable (503)
   */
  async revoke(request: RevocationRequest): Promise<string> {
    const { query } = this.#options
    this.#require()
    const { jti, sub, issuedBefore, expires, reason, revokedBy } = checked(request)
    const { rows } = await query<{ id: string }>(
      `select pgws.revoke($1, $2, $3::pg_catalog.timestamptz, coalesce($4::pg_catalog.timestamptz, 'infinity'), $5, $6)::pg_catalog.text as id`,
      [
        jti ?? null,
        sub ?? null,
        issuedBefore?.toISOString() ?? null,
        expires?.toISOString() ?? null,
        reason ?? null,
        revokedBy ?? null
      ]
    )
    const { id } = rows[0]!
    await this.#obey(id)
    return id
  }

  /**
   * Withdraws a revocation.
   * @throws NoSuchRevocation (404), NotInstalled (501), DatabaseUnavailable (503)
   */
  async unrevoke(id: string): Promise<void> {
    this.#require()
    if (!/^\d{1,18}$/.test(id)) throw new errors.NoSuchRevocation()
    const { rows } = await this.#options.query<{ found: boolean }>('select pgws.unrevoke($1) as found', [id])
    if (!rows[0]!.found) throw new errors.NoSuchRevocation()
    await this.#obey(id)
  }

  /**
   * The revocations, in the order of their ids.
   * @param page `limit` (default: 100) and `after`, the id of the last revocation of the previous page
   * @throws BadQuery (400), NotInstalled (501), DatabaseUnavailable (503)
   */
  async list({ limit = DEFAULT_PAGE, after = '0', onPage }: Paging): Promise<RevocationSummary[]> {
    this.#require()
    if (!/^\d{1,18}$/.test(after)) throw new errors.BadQuery('"after" must be the id of a revocation')
    const count = readLimit(limit)!
    const { rows: found } = await this.#options.query<RevocationSummary & { total: number }>(
      `select r.id::pg_catalog.text as id, r.jti, r.sub, ${iso('r.issued_before')} as "issuedBefore",
         ${iso('r.expires_at')} as expires, r.reason, r.revoked_by as "revokedBy",
         ${iso('r.revoked_at')} as "revokedAt",
         (select pg_catalog.count(*)::pg_catalog.int4 from pgws.revocations) as total
       from pgws.revocations r where r.id operator(pg_catalog.>) $1 order by r.id limit $2`,
      [after, count + 1]
    )
    const rows = found.slice(0, count).map(({ total: _, ...row }) => row)
    const more = found.length > count
    onPage?.({
      total: found[0]?.total ?? this.#options.revocations.size,
      next: more ? rows.at(-1)!.id : undefined
    })
    return rows
  }

  /** Reads a revocation that has just changed. */
  async #obey(id: string): Promise<void> {
    this.receive(id)
    await Promise.race([this.#reading, sleep(PATIENCE, undefined, { ref: false })])
  }

  #require(): void {
    if (!this.#options.installed()) throw new errors.NotInstalled()
  }
}

/** A time in ISO 8601, whatever the settings of the session are; null if it is infinite. */
function iso(column: string): string {
  return `case when pg_catalog.isfinite(${column})
    then pg_catalog.to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') end`
}

/** @throws BadQuery (400) */
function checked(request: RevocationRequest): RevocationRequest {
  const { jti, sub, issuedBefore, expires } = request
  if ((jti === undefined) === (sub === undefined)) {
    throw new errors.BadQuery('name either "jti", for one token, or "sub", for the tokens of a subject')
  }
  if (issuedBefore !== undefined && sub === undefined) {
    throw new errors.BadQuery('"issuedBefore" belongs to "sub"')
  }
  for (const [name, time] of Object.entries({ issuedBefore, expires })) {
    if (time !== undefined && !(time.getTime() >= 0 && time.getTime() < YEAR_10000)) {
      throw new errors.BadQuery(`"${name}" must be a time in ISO 8601, from the years 1970 to 9999`)
    }
  }
  if (expires !== undefined && expires.getTime() <= Date.now()) {
    throw new errors.BadQuery('"expires" must be in the future: it says when the last of the tokens expires')
  }
  for (const [name, text] of Object.entries({ jti, sub, reason: request.reason })) {
    if (text === undefined) continue
    if (text.includes('\0') || !text.isWellFormed() || Buffer.byteLength(text) > MAX_BYTES) {
      throw new errors.BadQuery(`"${name}" has at most ${MAX_BYTES} bytes of UTF-8, and no NUL character`)
    }
  }
  return request
}
