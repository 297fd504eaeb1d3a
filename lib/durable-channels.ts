import { matchesPattern } from './channel-pattern.js'
import { errors } from './errors.js'
import { checkServerRole } from './roles.js'
import { APPLIED, SCHEMA_VERSION } from './schema.js'
import { textCache } from './text-cache.js'

const SETTINGS = `select s.version, coalesce(${APPLIED}, s.version) as applied, s.epoch,
  s.retention_version::pg_catalog.float8 as retention_version,
  (select coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(r.pattern, extract(epoch from r.max_age))), '[]')
    from pgws.retention r) as patterns
  from pgws.settings s`

/** The last position of all; that of a message which is gone already counts, too. */
export const LATEST = `greatest((select coalesce(pg_catalog.max(position), 0) from pgws.messages),
  (select coalesce(pg_catalog.max(position), 0) from pgws.trimmed), (select pg_catalog.max(position) from pgws.forgotten))::pg_catalog.float8`

export type Query = (text: string, values?: unknown[]) => Promise<{ rows: Record<string, unknown>[] }>

/** What the database says about durable channels: whether there can be any, and which they are. */
export class DurableChannels {
  readonly #query: Query
  #installed = false
  #epoch = ''
  #retentionVersion = 0
  #patterns: (readonly [pattern: string, seconds: number])[] = []
  #checking: Promise<boolean> | undefined
  readonly #ages = textCache<{ seconds: number | undefined }>()

  constructor(query: Query) {
    this.#query = query
  }

  /** Whether the schema `pgws` is there, as far as is known. */
  get installed(): boolean {
    return this.#installed
  }

  /** The part of every id that changes when the database was restored. */
  get epoch(): string {
    return this.#epoch
  }

  /** What the database must still have when a message is sent by what is known here. */
  get retentionVersion(): number {
    return this.#retentionVersion
  }

  /**
   * For how long messages of a channel are kept.
   * @returns seconds; undefined: it is not durable
   */
  ageOf(channel: string): number | undefined {
    if (this.#patterns.length === 0) return undefined
    const known = this.#ages.get(channel)
    if (known !== undefined) return known.seconds
    let age: number | undefined
    for (const [pattern, seconds] of this.#patterns) {
      if ((age === undefined || seconds > age) && matchesPattern(pattern, channel)) age = seconds
    }
    this.#ages.set(channel, { seconds: age })
    return age
  }

  /**
   * Asks the database.
   * @throws SchemaTooNew, MissingGrant; and what the query throws
   */
  async refresh(): Promise<void> {
    const { rows: there } = await this.#query(
      "select pg_catalog.to_regclass('pgws.settings') is not null as there"
    )
    if (there[0]!.there) await checkServerRole(this.#query)
    const { rows } = there[0]!.there ? await this.#query(SETTINGS) : { rows: [] }
    const [settings] = rows as {
      version: number
      applied: number
      epoch: string
      retention_version: number
      patterns: []
    }[]
    if (settings !== undefined && settings.version > SCHEMA_VERSION) {
      throw new errors.SchemaTooNew(settings.version, SCHEMA_VERSION)
    }
    this.#installed = settings !== undefined && settings.applied >= SCHEMA_VERSION
    this.#epoch = settings?.epoch ?? ''
    this.#retentionVersion = settings?.retention_version ?? 0
    this.#patterns = settings?.patterns ?? []
    this.#ages.clear()
  }

  /**
   * Asks the database whether our role may use the schema.
   * @returns false where it surely may not; one answer for all who ask at once
   */
  checkPermitted(): Promise<boolean> {
    this.#checking ??= checkServerRole(this.#query)
      .then(
        () => true,
        (error) => !(error instanceof errors.MissingGrant)
      )
      .finally(() => {
        this.#checking = undefined
      })
    return this.#checking
  }

  /** @throws NotInstalled (501) */
  require(): void {
    if (!this.#installed) throw new errors.NotInstalled()
  }
}
