import pg from 'pg'
import { codeOf, errors, severityOf } from '../errors.js'
import { TIMEOUTS } from '../postgres/index.js'

/**
 * Disables the timeouts of the role and the database, because the listener has deadlines of its own. They are not startup
 * parameters of the connection, because older servers and poolers refuse parameters that they do not know (PgBouncer's
 * ignore_startup_parameters).
 */
const PREPARE = `select pg_catalog.current_setting('server_encoding') as encoding,
  pg_catalog.current_setting('max_identifier_length')::pg_catalog.int4 as longest,
  (select pg_catalog.count(pg_catalog.set_config(s.name, '0', false)) from pg_catalog.pg_settings s
   where s.name operator(pg_catalog.=) any ($1::pg_catalog.text[])) as timeouts`

/** Selects the names that are neither altered by the encoding nor truncated. */
const UNALTERED = `select n as name from pg_catalog.unnest($1::pg_catalog.text[]) n
  where pg_catalog.octet_length(n) operator(pg_catalog.<=) $2::pg_catalog.int4`

const ASCII = /^\p{ASCII}*$/u

/** A session, and its limits for names. */
export interface ListeningSession {
  readonly client: pg.Client
  /** The database's encoding. */
  readonly encoding: string
  /** The maximum length of an identifier, in bytes of that encoding. PostgreSQL truncates longer ones. */
  readonly longest: number
}

/** Prepares a connection for LISTEN, so that no timeout of its role ends it while it waits. */
export async function openSession(client: pg.Client): Promise<ListeningSession> {
  const { rows } = await client.query<{ encoding: string; longest: number }>(PREPARE, [TIMEOUTS])
  const { encoding, longest } = rows[0]!
  return { client, encoding, longest }
}

/**
 * Listens to database channels. A refused name does not affect the others. A name is refused if the database's encoding
 * cannot represent it, or would alter it, because notifications would then arrive under another name.
 * @returns the names that were refused, with the reasons
 * @throws if the connection fails, or if LISTEN fails for another reason than a name
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
    // A list of statements is one transaction: it listens to all of them, or to none.
    if (list.length > 0) {
      await session.client.query(list.map((name) => `LISTEN ${pg.escapeIdentifier(name)}`).join(';'))
    }
  } catch (error) {
    if (!isAboutNames(error)) throw error
    if (names.length === 1) {
      refused.set(names[0]!, new errors.ChannelRefused(names[0]!, error.message))
      return
    }
    // The error does not say which name it is.
    const half = Math.ceil(names.length / 2)
    await listenToSome(session, names.slice(0, half), refused)
    await listenToSome(session, names.slice(half), refused)
  }
}

/** Asks the database which names would be altered or truncated. */
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
 * Whether an error is about names: SQLSTATE class 22 (data exceptions, such as characters that the encoding lacks) or 42
 * (invalid names). All others are about the session (errcodes-appendix.html).
 */
function isAboutNames(error: unknown): error is Error {
  return /^(?:22|42)/.test(sqlstateOfStatement(error) ?? '')
}

/**
 * The SQLSTATE of an error that the session survives; undefined for all others. The error's class is not checked, because
 * the user's `pg` may be another copy of the package.
 */
export function sqlstateOfStatement(error: unknown): string | undefined {
  return severityOf(error) === 'ERROR' ? codeOf(error) : undefined
}
