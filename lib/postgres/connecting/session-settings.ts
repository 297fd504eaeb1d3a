import type pg from 'pg'

/** Timeouts of a role or a database (https://www.postgresql.org/docs/current/runtime-config-client.html). */
export const TIMEOUTS = [
  // From PostgreSQL 14 on. It ends sessions that are idle outside of a transaction, as a listener always is.
  'idle_session_timeout',
  'idle_in_transaction_session_timeout',
  'lock_timeout',
  'statement_timeout',
  // From PostgreSQL 17 on.
  'transaction_timeout'
]

/** pg_settings has timeouts in milliseconds, without a unit. */
const SETTINGS = `select s.name, s.setting from pg_catalog.pg_settings s
  where s.name operator(pg_catalog.=) any ($1::pg_catalog.text[])`

/** How long a statement waits for a lock, in milliseconds. It is shorter than the deadline of a statement, so that PostgreSQL reports it. */
const LOCK_TIMEOUT = 4000

/** The settings that a session gets from its role and its database. */
export interface SessionSettings {
  /** In milliseconds; 0: none. */
  readonly statementTimeout: number
  /** Whether it refuses writes. */
  readonly readOnly: boolean
  /**
   * The statements that begin a transaction with the settings that the server needs; undefined if the session has them already. The
   * settings are local to the transaction, because a pooler may give each transaction another session.
   */
  readonly begin: string | undefined
}

/**
 * Reads the settings of a session.
 * @param deadline how long a statement may take, in milliseconds
 */
export async function settingsOf(client: pg.ClientBase, deadline: number): Promise<SessionSettings> {
  const names = [...TIMEOUTS, 'default_transaction_isolation', 'transaction_read_only']
  const { rows } = await client.query<{ name: string; setting: string }>(SETTINGS, [names])
  const settings = new Map(rows.map(({ name, setting }) => [name, setting]))
  const timeout = (name: string) => Number(settings.get(name) ?? 0)
  const isShort = (name: string) => timeout(name) > 0 && timeout(name) < deadline
  const needsTransaction =
    settings.get('default_transaction_isolation') !== 'read committed' ||
    ['lock_timeout', 'statement_timeout', 'transaction_timeout'].some(isShort)
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
    begin: needsTransaction ? own.join('; ') : undefined
  }
}
