import { type ConnectionTarget, type Parameters, targetsOf, UNESCAPED } from './connection-targets.js'

/**
 * The supported parameters, each with the environment variable that is its default
 * (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS and libpq-envars.html).
 */
const PARAMETERS: Record<string, string | undefined> = {
  host: 'PGHOST',
  hostaddr: 'PGHOSTADDR',
  port: 'PGPORT',
  dbname: 'PGDATABASE',
  user: 'PGUSER',
  password: 'PGPASSWORD',
  passfile: 'PGPASSFILE',
  options: 'PGOPTIONS',
  sslmode: 'PGSSLMODE',
  sslrootcert: 'PGSSLROOTCERT',
  sslcert: 'PGSSLCERT',
  sslkey: 'PGSSLKEY',
  connect_timeout: 'PGCONNECT_TIMEOUT',
  target_session_attrs: 'PGTARGETSESSIONATTRS',
  load_balance_hosts: 'PGLOADBALANCEHOSTS',
  channel_binding: 'PGCHANNELBINDING'
}

/** Parameters that are ignored, because they have no effect here and ignoring them weakens nothing. */
const WITHOUT_MEANING = new Set([
  // libpq: this server sets the name, keep-alive and encoding of its connections, and does not support GSSAPI.
  'application_name',
  'fallback_application_name',
  'client_encoding',
  'keepalives',
  'keepalives_idle',
  'keepalives_interval',
  'keepalives_count',
  'tcp_user_timeout',
  'gssencmode',
  'sslcompression',
  'sslnegotiation',
  'sslsni',
  // Prisma (https://www.prisma.io/docs/orm/overview/databases/postgresql): they configure its own pool and caches, and
  // the statements of this server are schema-qualified.
  'connection_limit',
  'pool_timeout',
  'socket_timeout',
  'statement_cache_size',
  'pgbouncer',
  'schema',
  // node-postgres: this server interprets sslmode as libpq does.
  'uselibpqcompat',
  // Supabase on Vercel: the product that generated the string.
  'supa'
])

const UNKNOWN_OPTION = `the connection string has an unknown option; the options are ${[...Object.keys(PARAMETERS), ...WITHOUT_MEANING].join(', ')}. In a list of keyword=value, quote a password that contains spaces: 'like this'. In a URI, percent-encode ?, &, /, @ and : in the password`

/** Parameters of other clients, with what to write instead. */
const INSTEAD_OF: Record<string, string> = {
  ssl: 'use sslmode=require for TLS, sslmode=verify-full to check the certificate as well, or sslmode=disable',
  sslaccept: 'use sslmode=require for TLS, or sslmode=verify-full to check the certificate as well'
}

/**
 * Parses a connection string as libpq does: a URI or a keyword string, with several hosts, libpq's meaning of `sslmode`,
 * and `PG*` variables and the password file as defaults. (node-postgres supports only one host and no keyword strings, and
 * interprets `sslmode` differently.) Unlike libpq, it looks for the primary if there are several hosts, unless
 * `target_session_attrs` says something else.
 * @param onIgnored is called with the names of ignored parameters, if there are any
 * @returns the connection attempts to make, in order
 * @throws Error that says what was expected. It never contains the string, which may contain a password.
 */
export function parseConninfo(
  text: string,
  env: NodeJS.ProcessEnv = process.env,
  onIgnored: (names: string[]) => void = () => {}
): ConnectionTarget[] {
  const parameters = /^postgres(ql)?:\/\//.test(text) ? parseUri(text) : parseKeywords(text)
  const ignored = [...parameters.keys()].filter((name) => WITHOUT_MEANING.has(name))
  for (const name of ignored) parameters.delete(name)
  for (const name of parameters.keys()) {
    const instead = INSTEAD_OF[name]
    if (instead !== undefined && Object.hasOwn(INSTEAD_OF, name)) throw new Error(`${name}: ${instead}`)
    // The error does not name it, because it may be part of a password.
    if (!Object.hasOwn(PARAMETERS, name)) throw new Error(UNKNOWN_OPTION)
  }
  if (ignored.length > 0) onIgnored(ignored)
  for (const [name, variable] of Object.entries(PARAMETERS)) {
    const value = variable === undefined ? undefined : env[variable]
    if (value && !parameters.get(name)) parameters.set(name, value)
  }
  return targetsOf(parameters, env)
}

/** `key=value …` with libpq's quoting: single quotes, and backslashes before quotes and backslashes. */
function parseKeywords(text: string): Parameters {
  const parameters: Parameters = new Map()
  const pattern = /\s*([^\s=]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)/suy
  let end = 0
  while (text.slice(end).trim() !== '') {
    pattern.lastIndex = end
    const match = pattern.exec(text)
    if (match === null) {
      throw new Error('expected a URI (postgresql://…) or a list of keyword=value')
    }
    parameters.set(match[1]!, (match[2] ?? match[3] ?? '').replace(/\\(.)/gsu, '$1'))
    end = pattern.lastIndex
  }
  return parameters
}

/** postgresql://[user[:password]@][host[:port],…][/dbname][?param=value&…] */
function parseUri(text: string): Parameters {
  const match = /^postgres(?:ql)?:\/\/(?:([^@/?]*)@)?([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(text)
  if (match === null) throw new Error('expected postgresql://user:password@host:port/dbname')
  const [, userinfo, hosts = '', dbname, query] = match
  const parameters: Parameters = new Map()
  const set = (name: string, value: string | undefined) => {
    if (value) parameters.set(name, decode(value))
  }
  if (userinfo !== undefined) {
    const colon = userinfo.indexOf(':')
    set('user', colon === -1 ? userinfo : userinfo.slice(0, colon))
    set('password', colon === -1 ? undefined : userinfo.slice(colon + 1))
  }
  const names: string[] = []
  const ports: string[] = []
  for (const host of hosts.split(',')) {
    const parts = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d*))?$/.exec(host)
    if (parts === null) throw new Error('a host must be written as name, name:port, or [IPv6 address]:port')
    names.push(decode(parts[1] ?? parts[2] ?? ''))
    ports.push(parts[3] ?? '')
  }
  if (names.some((name) => name !== '')) parameters.set('host', names.join(','))
  if (ports.some((port) => port !== '')) parameters.set('port', ports.join(','))
  // The user information ends at the first "/" or "@" (RFC 3986). The rest may be part of a password.
  if (dbname?.includes('@')) throw new Error(UNESCAPED)
  set('dbname', dbname)
  for (const pair of query?.split('&') ?? []) {
    const equals = pair.indexOf('=')
    if (equals === -1) throw new Error('a parameter of the URI lacks "=": write name=value')
    const name = decode(pair.slice(0, equals))
    const value = decode(pair.slice(equals + 1))
    // JDBC's name, which libpq accepts, too.
    if (name === 'ssl' && value === 'true') parameters.set('sslmode', 'require')
    else if (name === 'ssl' && value === 'false') parameters.set('sslmode', 'disable')
    else parameters.set(name, value)
  }
  return parameters
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error('the URI contains an invalid percent-encoding: write % as %25')
  }
}
