import { TLSSocket } from 'node:tls'
import type pg from 'pg'
import { codeOf, messageOf } from '../../lib/errors.js'
import { type ConnectionTarget, connect, parseConninfo } from '../../lib/postgres/index.js'
import type { Report } from './report.js'

/** The releases that docs name. */
const OLDEST = 13
const NEWEST = 18

/** SQLSTATEs and codes of Node.js with what to do about them. */
const ADVICE: Record<string, string> = {
  ECONNREFUSED: 'nothing listens there: check host and port, and whether PostgreSQL runs',
  ENOENT: 'there is no such socket: check host and port, and whether PostgreSQL runs',
  EACCES: 'this user may not open the socket',
  ENOTFOUND: 'the name is unknown: check the host',
  EAI_AGAIN: 'names cannot be resolved at the moment: check the host and the network',
  EHOSTUNREACH: 'the network does not lead there',
  '28P01': 'check the password; in a URI, percent-encode its special characters',
  '28000': 'check the user, and pg_hba.conf of the server',
  '3D000': 'check the name of the database, or create it',
  '53300': 'close other connections, or raise max_connections'
}

const TIMED_OUT = 'it did not answer in time: check host, port and firewall'

/** A database that was reached. */
export interface Reached {
  /** The name of the variable with its connection string. */
  variable: string
  client: pg.Client
  /** Opens another connection in the same way. */
  connectAgain: () => Promise<pg.Client>
}

/** Connects as the server does, and reports the result. */
export async function reach(report: Report, variable: string, uri: string): Promise<Reached | undefined> {
  const targets = await report.attempt('connection', () => parse(variable, uri))
  if (targets === undefined) return undefined
  const connectAgain = () =>
    connect(targets, { application_name: 'fastify-pg-websockets doctor', query_timeout: 5000 })
  try {
    const client = await connectAgain()
    report.ok('connection', `${variable}: ${describe(client)}`)
    return { variable, client, connectAgain }
  } catch (error) {
    report.error('connection', `${variable}: ${messageOf(error)}${adviceFor(error)}`)
    return undefined
  }
}

function parse(variable: string, uri: string): ConnectionTarget[] {
  try {
    return parseConninfo(uri)
  } catch (error) {
    throw new Error(`${variable}: ${messageOf(error)}`)
  }
}

function describe(client: pg.Client): string {
  const { host, port, database, user } = client
  const socket = host.startsWith('/')
  const { stream } = client.connection
  const tls = socket ? '' : stream instanceof TLSSocket ? ', with TLS' : ', without TLS'
  return `database "${database}" on ${socket ? host : `${host}:${port}`} as "${user}"${tls}`
}

function adviceFor(error: unknown): string {
  // Of several attempts, the last one failed with the cause.
  const cause = error instanceof Error ? error.cause : undefined
  const code = codeOf(cause) ?? (cause instanceof AggregateError ? codeOf(cause.errors[0]) : undefined) ?? ''
  const advice = Object.hasOwn(ADVICE, code) ? ADVICE[code] : undefined
  if (advice !== undefined) return `; ${advice}`
  return /timeout/.test(messageOf(error)) ? `; ${TIMED_OUT}` : ''
}

/** Checks that the server's release is one that is tested. */
export async function checkVersion(report: Report, { client }: Reached): Promise<void> {
  const { rows } = await client.query<{ version: string; number: string }>(
    "select pg_catalog.current_setting('server_version') as version, pg_catalog.current_setting('server_version_num') as number"
  )
  const { version, number } = rows[0]!
  const major = Math.floor(Number(number) / 10_000)
  const name = `PostgreSQL ${version.split(' ')[0]}`
  if (major < OLDEST) report.error('version', `${name}: upgrade to PostgreSQL ${OLDEST} or later`)
  else if (major > NEWEST) report.warning('version', `${name}: releases after ${NEWEST} have not been tested`)
  else report.ok('version', name)
}
