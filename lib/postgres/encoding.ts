/** The expression for the database's encoding. */
export const ENCODING = "pg_catalog.current_setting('server_encoding')"

/**
 * Whether an encoding lacks characters of Unicode, which PostgreSQL then refuses. SQL_ASCII accepts all bytes unchanged
 * (https://www.postgresql.org/docs/current/multibyte.html).
 */
export function isPartial(encoding: string): boolean {
  return encoding !== 'UTF8' && encoding !== 'SQL_ASCII'
}
