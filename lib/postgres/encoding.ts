/** The expression for the database's encoding. */
export const ENCODING = "pg_catalog.current_setting('server_encoding')"

/**
 * Whether an encoding has not every character of Unicode: PostgreSQL refuses those that it does not have. SQL_ASCII takes
 * all bytes as they are (https://www.postgresql.org/docs/current/multibyte.html).
 */
export function isPartial(encoding: string): boolean {
  return encoding !== 'UTF8' && encoding !== 'SQL_ASCII'
}
