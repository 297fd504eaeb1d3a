import type pg from 'pg'

/** Timeouts of a role or a database (https://www.postgresql.org/docs/current/runtime-config-client.html). */
export const TIMEOUTS = [
  // Since PostgreSQL 14: ends a session that is idle outside of a transaction, which a listener always is.
  'idle_session_timeout',
  'idle_in_transaction_session_timeout',
  'lock_timeout',
  'statement_timeout',
  // Since PostgreSQL 17.
  'transaction_timeout'
]

/** In pg_settings a timeout is in milliseconds, without its unit. */
const SETTINGS = `select s.name, s.setting from pg_catalog.pg_settings s
  where s.name operator(pg_catalog.=) any ($1::pg_catalog.text[])`

/** For how long one of our statements waits for a lock, in milliseconds: less than it may take, so that PostgreSQL says so. */
const LOCK_TIMEOUT = 4000

/** What a session has from its role and its database. */
export interface SessionSettings {
  /** In milliseconds; 0: none. */
  readonly statementTimeout: number
  /** Whether it refuses writes. */
  readonly readOnly: boolean
  /**
   * What begins a transaction in which a statement of ours runs as we need it; undefined where it does without one. In a
   * transaction, because a pooler may give each another session.
   */
  readonly begin: string | undefined
}

/**
 * Asks a session what its role and its database have set.
 * @param deadline how long a statement of ours may take, in milliseconds
 */
export async function settingsOf(client: pg.ClientBase, deadline: number): Promise<SessionSettings> {
  const names = [...TIMEOUTS, 'default_transaction_isolation', 'transaction_read_only']
  const { rows } = await client.query<{ name: string; setting: string }>(SETTINGS, [names])
  const settings = new Map(rows.map(({ name, setting }) => [name, setting]))
  const timeout = (name: string) => Number(settings.get(name) ?? 0)
  const short = (name: string) => timeout(name) > 0 && timeout(name) < deadline
  const hindering =
    settings.get('default_transaction_isolation') !== 'read committed' ||
    ['lock_timeout', 'statement_timeout', 'transaction_timeout'].some(short)
  const own = [
    'begin isolation level read committed',
    `set local statement_timeout = ${deadline}`,
    `set local lock_timeout = ${LOCK_TIMEOUT}`,
    'set local idle_in_transaction_session_timeout = 0',
    ...(settings.has('transaction_timeout') ? ['set local transaction_timeout = 0'] : [])
  ]
  return {
    statementTimeout: timeout('statement_timeout'),
    readOnly: settings.get('transaction_read_only') === 'on',
    begin: hindering ? own.join('; ') : undefined
  }
}
