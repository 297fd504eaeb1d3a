import pg from 'pg'
import { codeOf, errors, severityOf } from '../errors.js'
import { TIMEOUTS } from '../postgres/index.js'

/**
 * No timeout of a role or a database ends or disturbs a session that waits for notifications: our own deadlines say when
 * it has taken too long. Not as parameters of the connection's start: an older server refuses those that it does not know, and so does a
 * pooler (PgBouncer's ignore_startup_parameters).
 */
const PREPARE = `select pg_catalog.current_setting('server_encoding') as encoding,
  pg_catalog.current_setting('max_identifier_length')::pg_catalog.int4 as longest,
  (select pg_catalog.count(pg_catalog.set_config(s.name, '0', false)) from pg_catalog.pg_settings s
   where s.name operator(pg_catalog.=) any ($1::pg_catalog.text[])) as timeouts`

/** The names that come back as they went, and are not cut. */
const UNALTERED = `select n as name from pg_catalog.unnest($1::pg_catalog.text[]) n
  where pg_catalog.octet_length(n) operator(pg_catalog.<=) $2::pg_catalog.int4`

const ASCII = /^\p{ASCII}*$/u

/** What a session says of names. */
export interface ListeningSession {
  readonly client: pg.Client
  /** The database's encoding. */
  readonly encoding: string
  /** How many bytes of that encoding an identifier may have; PostgreSQL cuts what is longer. */
  readonly longest: number
}

/** Readies a connection for LISTEN: no timeout of its role ends it while nothing is notified. */
export async function openSession(client: pg.Client): Promise<ListeningSession> {
  const { rows } = await client.query<{ encoding: string; longest: number }>(PREPARE, [TIMEOUTS])
  const { encoding, longest } = rows[0]!
  return { client, encoding, longest }
}

/**
 * Listens to database channels. A name that the database refuses fails alone: one that its encoding does not have, or
 * that it would alter, so that notifications would come under another name.
 * @returns the names that were refused, with the reason of each
 * @throws where the connection fails, or refuses for another reason than a name
 */
export async function listenTo(
  session: ListeningSession,
  names: readonly string[]
): Promise<Map<string, Error>> {
  const refused = new Map<string, Error>()
  await listenToSome(session, names, refused)
  return refused
}

async function listenToSome(
  session: ListeningSession,
  names: readonly string[],
  refused: Map<string, Error>
): Promise<void> {
  try {
    const altered = await alteredNames(session, names)
    for (const name of altered) {
      refused.set(
        name,
        new errors.ChannelRefused(
          name,
          `the database's encoding, ${session.encoding}, cannot represent the name`
        )
      )
    }
    const list = names.filter((name) => !altered.has(name))
    // One statement list is one transaction: all of them are listened to, or none.
    if (list.length > 0) {
      await session.client.query(list.map((name) => `LISTEN ${pg.escapeIdentifier(name)}`).join(';'))
    }
  } catch (error) {
    if (!isAboutNames(error)) throw error
    if (names.length === 1) {
      refused.set(names[0]!, new errors.ChannelRefused(names[0]!, error.message))
      return
    }
    // The statement does not say which one it is.
    const half = Math.ceil(names.length / 2)
    await listenToSome(session, names.slice(0, half), refused)
    await listenToSome(session, names.slice(half), refused)
  }
}

/** Asks the database about those names that may change on their way there and back. */
async function alteredNames(
  { client, encoding, longest }: ListeningSession,
  names: readonly string[]
): Promise<Set<string>> {
  const doubtful = names.filter((name) =>
    encoding === 'UTF8' || ASCII.test(name) ? Buffer.byteLength(name) > longest : true
  )
  if (doubtful.length === 0) return new Set()
  const { rows } = await client.query<{ name: string }>(UNALTERED, [doubtful, longest])
  const unaltered = new Set(rows.map(({ name }) => name))
  return new Set(doubtful.filter((name) => !unaltered.has(name)))
}

/**
 * SQLSTATE classes 22 (data exceptions: what an encoding does not have) and 42 (names that cannot be); all others are
 * about the session (errcodes-appendix.html).
 */
function isAboutNames(error: unknown): error is Error {
  return /^(?:22|42)/.test(sqlstateOfStatement(error) ?? '')
}

/**
 * The SQLSTATE of an error that the session survives; undefined for all others. Not by the error's class: a user's `pg`
 * may be another copy than ours.
 */
export function sqlstateOfStatement(error: unknown): string | undefined {
  return severityOf(error) === 'ERROR' ? codeOf(error) : undefined
}
