import { matchesPattern } from '../channel-pattern.js'
import { errors } from '../errors.js'
import { historyGap, type Message, messageId } from '../messages/index.js'
import { ENCODING, isPartial, type Query } from '../postgres/index.js'
import {
  appliedExpression,
  checkServerRole,
  INSTALLED,
  type Permission,
  permissionOf,
  SCHEMA_VERSION
} from '../schema/index.js'
import { textCache } from '../text-cache.js'

/** The parts of the schema that older versions lack. */
interface Version {
  counted: boolean
  signs: boolean
}

/** The `oid` of the database. */
export const OID =
  '(select d.oid::pg_catalog.text from pg_catalog.pg_database d where d.datname operator(pg_catalog.=) pg_catalog.current_database())'

const settingsStatement = ({
  counted,
  signs
}: Version) => `select s.version, ${appliedExpression(counted)} as applied, s.epoch,
  s.retention_version::pg_catalog.text as retention_version, ${OID} as oid,
  ${signs ? '(select k.secret from pgws.secret k)' : 'null'} as secret,
  (select coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(r.pattern,
      extract(epoch from least(r.max_age, '100 years'))::pg_catalog.numeric)), '[]')
    from pgws.retention r) as patterns
  from pgws.settings s`

/**
 * The last position that was assigned, even if its message has been deleted. Like all large numbers, it is read as JSON,
 * because a float8 lacks digits if `extra_float_digits` is low.
 */
export const LATEST = 'pg_catalog.to_json(pgws.last_position())'

/** Whether this server and the schema are compatible. Without a schema, everything but durable channels works. */
export type SchemaState =
  | { status: 'ok' | 'missing'; error?: undefined }
  | { status: 'too old' | 'too new'; error: Error }

/** The settings of the schema. */
interface Settings {
  version: number
  applied: number
  epoch: string
  oid: string
  retention_version: string
  /** Null in a schema that is too old. */
  secret: string | null
  patterns: [pattern: string, seconds: number][]
}

function stateOf(settings: Settings | undefined): SchemaState {
  if (settings === undefined) return { status: 'missing' }
  const { version, applied } = settings
  if (version > SCHEMA_VERSION) {
    return { status: 'too new', error: new errors.SchemaTooNew(version, SCHEMA_VERSION) }
  }
  // Messages from this server would not be stored.
  if (applied < SCHEMA_VERSION) {
    return { status: 'too old', error: new errors.SchemaTooOld(applied, SCHEMA_VERSION) }
  }
  return { status: 'ok' }
}

/** The retention rules of the database, which say what channels are durable, and the state of the schema. */
export class RetentionRules {
  readonly #query: Query
  readonly #onState: (state: SchemaState) => void
  #state: SchemaState = { status: 'missing' }
  /** Whether the rules are known. Nothing is published before, because it might not be stored. */
  known = false
  /** Not updated while the schema is incompatible, so that messages are refused rather than sent without being stored. */
  #installed = false
  #partial = false
  #epoch = ''
  #oid = ''
  #retentionVersion = '0'
  #secret: string | undefined
  #patterns: (readonly [pattern: string, seconds: number])[] = []
  #checking: Promise<Permission> | undefined
  #lastPermission: Permission = 'all'
  readonly #ages = textCache<{ seconds: number | undefined }>()

  /** @param onState is called when the state of the schema changes */
  constructor(query: Query, onState: (state: SchemaState) => void = () => {}) {
    this.#query = query
    this.#onState = onState
  }

  /** The last known compatibility of this server and the schema `pgws`. */
  get state(): SchemaState {
    return this.#state
  }

  /** Whether the schema `pgws` was installed when it was last checked. */
  get installed(): boolean {
    return this.#installed
  }

  /** Whether the database's encoding lacks some characters: see isPartial. */
  get partial(): boolean {
    return this.#partial
  }

  /**
   * Makes the server event that says that messages of a channel are missing.
   * @param requested the id that the client sent as `since`, or null
   * @param oldest the position of the oldest stored message, or null
   * @param latest the last position in the database; 0: none
   */
  historyGap(channel: string, requested: string | null, oldest: number | null, latest: number): Message {
    return historyGap(channel, {
      requested,
      oldest: oldest === null ? null : messageId(this.#epoch, oldest),
      latest: latest === 0 ? null : messageId(this.#epoch, latest)
    })
  }

  /** The part of every id that changes when the database is restored. */
  get epoch(): string {
    return this.#epoch
  }

  /** The `oid` of the database. */
  get oid(): string {
    return this.#oid
  }

  /** The version of the rules. A statement that publishes checks that the database still has it. */
  get retentionVersion(): string {
    return this.#retentionVersion
  }

  /** The secret with which the database signs announcements; undefined without the schema. Only servers may read it. */
  get secret(): string | undefined {
    return this.#secret
  }

  /**
   * How long messages of a channel are stored.
   * @returns seconds; undefined: the channel is not durable
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
   * Reads the rules from the database.
   * @throws SchemaTooNew, SchemaTooOld, MissingGrant; and what the query throws
   */
  async refresh(): Promise<void> {
    const { rows: found } = await this.#query<Version & { installed: boolean; encoding: string }>(
      `${INSTALLED}, ${ENCODING} as encoding`
    )
    const { installed, encoding } = found[0]!
    this.#partial = isPartial(encoding)
    if (installed) await checkServerRole(this.#query)
    const { rows } = installed ? await this.#query<Settings>(settingsStatement(found[0]!)) : { rows: [] }
    const [settings] = rows
    this.#enter(stateOf(settings))
    if (this.#state.error !== undefined) throw this.#state.error
    this.#installed = this.#state.status === 'ok'
    this.#epoch = settings?.epoch ?? ''
    this.#oid = settings?.oid ?? ''
    this.#retentionVersion = settings?.retention_version ?? '0'
    this.#secret = settings?.secret ?? undefined
    this.#patterns = settings?.patterns ?? []
    this.#ages.clear()
  }

  /**
   * Asks the database what the server's role may do with the schema. Concurrent calls share one query.
   * @returns `all` even if the database does not answer, because that is another failure
   */
  permission(): Promise<Permission> {
    this.#checking ??= permissionOf(this.#query)
      .catch(() => 'all' as const)
      .then((permission) => {
        this.#lastPermission = permission
        return permission
      })
      .finally(() => {
        this.#checking = undefined
      })
    return this.#checking
  }

  /** What `permission` has last returned. */
  get lastPermission(): Permission {
    return this.#lastPermission
  }

  #enter(state: SchemaState): void {
    const changed = state.status !== this.#state.status
    this.#state = state
    if (changed) this.#onState(state)
  }

  /** @throws NotInstalled (501) */
  require(): void {
    if (!this.#installed) throw new errors.NotInstalled()
  }
}
