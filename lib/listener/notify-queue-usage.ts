import { messageOf } from '../errors.js'
import type { Log } from '../log.js'
import type { Query } from '../postgres/index.js'

/** How often the queue is checked, in milliseconds. */
const INTERVAL = 10_000

/** Above this fraction, a session does not read. PostgreSQL itself warns from there on (sql-notify.html). */
const CROWDED = 0.5

const USAGE = `select pg_catalog.to_json(pg_catalog.pg_notification_queue_usage()::pg_catalog.numeric) as usage,
  pg_catalog.current_setting('transaction_read_only') as readonly`

/** A listening session in a transaction has not read any notification from after the start of the transaction. */
const OLDEST = `select pid, usename, application_name, state,
    extract(epoch from pg_catalog.now() operator(pg_catalog.-) xact_start)::float as seconds
  from pg_catalog.pg_stat_activity where xact_start is not null and pid operator(pg_catalog.<>) pg_catalog.pg_backend_pid()
  order by xact_start limit 3`

export interface NotificationQueueOptions {
  query: Query
  log: Log
}

/**
 * Monitors the queue in which PostgreSQL keeps notifications until all listening sessions have read them. When it is full,
 * NOTIFY fails at commit (https://www.postgresql.org/docs/current/sql-notify.html).
 */
export class NotificationQueueUsage {
  readonly #options: NotificationQueueOptions
  #timer: NodeJS.Timeout | undefined
  #checking: Promise<number | undefined> | undefined
  #usage: number | undefined
  #readOnly = false

  constructor(options: NotificationQueueOptions) {
    this.#options = options
  }

  /** The fraction that was in use at the last check, 0 to 1; undefined if the database did not answer. */
  get usage(): number | undefined {
    return this.#usage
  }

  /** Whether the database refuses writes, so that no message can be stored. */
  get readOnly(): boolean {
    return this.#readOnly
  }

  get crowded(): boolean {
    return (this.#usage ?? 0) > CROWDED
  }

  start(): void {
    this.#timer ??= setInterval(() => this.check(), INTERVAL).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** @returns the fraction in use, 0 to 1; undefined if the database does not answer */
  check(): Promise<number | undefined> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined
    })
    return this.#checking
  }

  #noteReadOnly(readOnly: boolean): void {
    if (readOnly === this.#readOnly) return
    this.#readOnly = readOnly
    const { log } = this.#options
    if (readOnly) {
      log.warn(
        {},
        'the database is read-only (default_transaction_read_only, or a standby): messages to durable channels wait or are refused'
      )
    } else log.info({}, 'the database accepts writes again')
  }

  async #check(): Promise<number | undefined> {
    const { query, log } = this.#options
    const before = this.crowded
    try {
      const { rows } = await query(USAGE)
      this.#usage = Number(rows[0]!.usage)
      this.#noteReadOnly(rows[0]!.readonly === 'on')
    } catch {
      this.#usage = undefined
      return undefined
    }
    const usage = this.#usage
    if (this.crowded && !before) {
      const sessions = await query(OLDEST).then(
        ({ rows }) => rows,
        (error) => messageOf(error)
      )
      log.warn(
        { usage, sessions },
        'the notification queue is filling up, because a listening session is in a transaction; "sessions" lists the oldest ones that this role may see'
      )
    } else if (before && !this.crowded) log.info({ usage }, 'the notification queue has room again')
    return usage
  }
}
