import { existsSync, readFileSync, statSync } from 'node:fs'
import { homedir, userInfo } from 'node:os'
import { join } from 'node:path'
import { type ConnectionOptions, checkServerIdentity, type PeerCertificate } from 'node:tls'
import type pg from 'pg'
import { codeOf } from '../../errors.js'

/** One attempt at a connection: a host, with or without TLS. */
export interface ConnectionTarget {
  config: pg.ClientConfig
  /** For messages: host and port. */
  name: string
  /** The same host again, tried only where TLS with the one before could not be agreed upon. */
  fallback: boolean
  sessionAttrs: SessionAttrs
  /** The login must be bound to the TLS channel (libpq-connect.html, channel_binding). */
  requiresChannelBinding: boolean
}

export type SessionAttrs = 'any' | 'read-write' | 'read-only' | 'primary' | 'standby'

type Parameters = Map<string, string>

/**
 * The parameters that are understood, with the variable that fills each where it is missing
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

/** Names that weaken nothing, and have no meaning here. */
const WITHOUT_MEANING = new Set([
  // Of libpq: our connections have names, keep-alive and an encoding of their own, and no GSSAPI.
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
  // Of Prisma (https://www.prisma.io/docs/orm/overview/databases/postgresql): its pool and its caches are not ours, and
  // our statements name their schema.
  'connection_limit',
  'pool_timeout',
  'socket_timeout',
  'statement_cache_size',
  'pgbouncer',
  'schema',
  // Of node-postgres: we read sslmode as libpq does.
  'uselibpqcompat',
  // Of Supabase's pooler on Vercel: which of its products made the string.
  'supa'
])

const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full']
const CHANNEL_BINDINGS = ['disable', 'prefer', 'require']
const SESSION_ATTRS = ['any', 'read-write', 'read-only', 'primary', 'standby']

const UNKNOWN_OPTION = `the connection string has an unknown option; the options are ${[...Object.keys(PARAMETERS), ...WITHOUT_MEANING].join(', ')}. In a list of keyword=value, quote a password that contains spaces: 'like this'. In a URI, percent-encode ?, &, /, @ and : in the password`

/** Names that other clients give to what libpq calls otherwise. */
const INSTEAD_OF: Record<string, string> = {
  ssl: 'use sslmode=require for TLS, sslmode=verify-full to check the certificate as well, or sslmode=disable',
  sslaccept: 'use sslmode=require for TLS, or sslmode=verify-full to check the certificate as well'
}

const NO_VERIFY =
  'only node-postgres knows sslmode "no-verify": use sslmode=require, which does not check the certificate unless sslrootcert is set, or better sslmode=verify-full'

/** How long one attempt may take where `connect_timeout` does not say, in milliseconds. */
const CONNECT_TIMEOUT = 5000

/**
 * Reads a connection string as libpq does: a URI or a keyword string, with several hosts, `sslmode` in libpq's
 * meaning, and `PG*` variables and the password file for what is missing. (node-postgres by itself takes one
 * host, no keyword strings, and reads `sslmode` otherwise.) Unlike libpq, it wants the primary where there are several
 * hosts, unless `target_session_attrs` says something else.
 * @param onIgnored told of the names that have no meaning here, where there are any
 * @returns the attempts to make, in order
 * @throws Error that says what was expected; it never repeats the string, which may hold a password
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
    // What stands there may be a part of a password.
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

const UNESCAPED =
  'the URI contains an unexpected "@": in its password, percent-encode "@" as %40, "/" as %2F and "?" as %3F'

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
  // The user information of RFC 3986 ends at the first "/" or "@": what follows might be the rest of a password.
  if (dbname?.includes('@')) throw new Error(UNESCAPED)
  set('dbname', dbname)
  for (const pair of query?.split('&') ?? []) {
    const equals = pair.indexOf('=')
    if (equals === -1) throw new Error('a parameter of the URI lacks "=": write name=value')
    const name = decode(pair.slice(0, equals))
    const value = decode(pair.slice(equals + 1))
    // What JDBC calls it; libpq knows it, too.
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

function targetsOf(parameters: Parameters, env: NodeJS.ProcessEnv): ConnectionTarget[] {
  const list = (name: string) => parameters.get(name)?.split(',') ?? []
  const names = list('host')
  const addresses = list('hostaddr')
  const ports = list('port')
  const count = Math.max(names.length, addresses.length, 1)
  if (addresses.length > 0 && names.length > 0 && addresses.length !== names.length) {
    throw new Error(
      `there are ${names.length} host names, but ${addresses.length} hostaddr values: give as many of both`
    )
  }
  if (ports.length > 1 && ports.length !== count) {
    throw new Error(
      `there are ${ports.length} ports, but ${count} hosts: give one port, or one for each host`
    )
  }
  const user = parameters.get('user') || userInfo().username
  const database = parameters.get('dbname') || user
  if (parameters.get('sslmode') === 'no-verify') throw new Error(NO_VERIFY)
  const sslmode = oneOf(SSL_MODES, 'sslmode', parameters.get('sslmode') ?? 'prefer')
  // Only where it is asked for: node-postgres takes fewer kinds of certificate for it than libpq.
  const channelBinding = oneOf(
    CHANNEL_BINDINGS,
    'channel_binding',
    parameters.get('channel_binding') ?? 'disable'
  )
  // On a hot standby nobody can LISTEN or NOTIFY (https://www.postgresql.org/docs/current/hot-standby.html).
  const wantedAttrs = parameters.get('target_session_attrs') ?? (count > 1 ? 'primary' : 'any')
  const sessionAttrs = oneOf(SESSION_ATTRS, 'target_session_attrs', wantedAttrs)
  const seconds = wholeNumber('connect_timeout', parameters.get('connect_timeout') ?? '0', 0, 2 ** 31 / 1000)

  const targets: ConnectionTarget[] = []
  for (let i = 0; i < count; i++) {
    const name = names[i] || ''
    if (name.includes('@')) throw new Error(UNESCAPED)
    const host = addresses[i] || name || defaultHost()
    const port = wholeNumber('port', ports[i] || (ports.length === 1 && ports[0]) || '5432', 1, 65535)
    const options = parameters.get('options')
    const config: pg.ClientConfig = {
      host,
      port,
      user,
      database,
      password:
        parameters.get('password') ?? passwordFor(parameters, env, name || host, port, database, user) ?? '',
      connectionTimeoutMillis: seconds > 0 ? seconds * 1000 : CONNECT_TIMEOUT,
      enableChannelBinding: channelBinding !== 'disable',
      ...(options !== undefined && { options })
    }
    for (const [attempt, ssl] of tlsAttempts(sslmode, parameters, name || host).entries()) {
      targets.push({
        config: { ...config, ssl },
        name: host.startsWith('/') ? host : `${host}:${port}`,
        fallback: attempt > 0,
        sessionAttrs: sessionAttrs as SessionAttrs,
        requiresChannelBinding: channelBinding === 'require'
      })
    }
  }
  return parameters.get('load_balance_hosts') === 'random' ? shuffleHosts(targets) : targets
}

/**
 * What `sslmode` asks for (https://www.postgresql.org/docs/current/libpq-ssl.html, table "SSL Mode
 * Descriptions"): the attempts, in order; false is without TLS.
 */
function tlsAttempts(mode: string, parameters: Parameters, host: string): (ConnectionOptions | false)[] {
  if (mode === 'disable' || host.startsWith('/')) return [false]
  const read = (name: string) => {
    const file = parameters.get(name)
    if (file === undefined) return undefined
    try {
      return readFileSync(file, 'utf8')
    } catch (error) {
      throw new Error(`${name} names a file that cannot be read (${codeOf(error)})`)
    }
  }
  const cert = read('sslcert')
  const key = read('sslkey')
  const client = { ...(cert !== undefined && { cert }), ...(key !== undefined && { key }) }
  const unverified = { ...client, rejectUnauthorized: false }
  if (mode === 'allow') return [false, unverified]
  if (mode === 'prefer') return [unverified, false]

  const file = parameters.get('sslrootcert') ?? join(homedir(), '.postgresql', 'root.crt')
  const system = file === 'system'
  const known = parameters.has('sslrootcert') || existsSync(file)
  // With a root certificate, `require` is `verify-ca`, for compatibility (libpq-ssl.html).
  if (mode === 'require' && !known) return [unverified]
  if (!known)
    throw new Error(`sslmode "${mode}" needs a root certificate: set sslrootcert to its file, or to "system"`)
  if (system && mode !== 'verify-full') throw new Error('sslrootcert "system" needs sslmode "verify-full"')
  const roots = system ? {} : { ca: read('sslrootcert') ?? readFileSync(file, 'utf8') }
  // The name that the string gives, though the connection may go to a `hostaddr`.
  const sameHost = (_: string, certificate: PeerCertificate) => checkServerIdentity(host, certificate)
  if (mode === 'verify-full') return [{ ...client, ...roots, checkServerIdentity: sameHost }]
  return [{ ...client, ...roots, checkServerIdentity: () => undefined }]
}

/** https://www.postgresql.org/docs/current/libpq-pgpass.html */
function passwordFor(
  parameters: Parameters,
  env: NodeJS.ProcessEnv,
  host: string,
  port: number,
  database: string,
  user: string
): string | undefined {
  const file = parameters.get('passfile') ?? join(env.HOME ?? homedir(), '.pgpass')
  let lines: string[]
  try {
    // As libpq: one that others may read is not used.
    if ((statSync(file).mode & 0o077) !== 0) return undefined
    lines = readFileSync(file, 'utf8').split('\n')
  } catch {
    return undefined
  }
  const wanted = [host.startsWith('/') ? 'localhost' : host, String(port), database, user]
  for (const line of lines) {
    if (line.startsWith('#')) continue
    // A backslash at the end stands for itself, as in libpq.
    const fields = (line.match(/(?:[^:\\]|\\.|\\$)*(?::|$)/gs) ?? []).map((field) =>
      field.replace(/:$/, '').replace(/\\(.)/g, '$1')
    )
    if (fields.length >= 5 && wanted.every((value, i) => fields[i] === '*' || fields[i] === value))
      return fields[4]
  }
  return undefined
}

function defaultHost(): string {
  return (
    ['/var/run/postgresql', '/tmp'].find((folder) => existsSync(join(folder, '.s.PGSQL.5432'))) ?? 'localhost'
  )
}

function oneOf(values: string[], name: string, value: string): string {
  if (!values.includes(value)) throw new Error(`${name} must be one of ${values.join(', ')}`)
  return value
}

function wholeNumber(name: string, value: string, least: number, most: number): number {
  const number = Number(value)
  if (!/^\d+$/.test(value) || number < least || number > most) {
    throw new Error(`${name} must be a whole number from ${least} to ${Math.floor(most)}`)
  }
  return number
}

/** In another order each time, with a host's fallback behind it. */
function shuffleHosts(targets: ConnectionTarget[]): ConnectionTarget[] {
  const hosts: ConnectionTarget[][] = []
  for (const target of targets) {
    if (target.fallback) hosts.at(-1)!.push(target)
    else hosts.push([target])
  }
  return hosts
    .map((group) => ({ group, rank: Math.random() }))
    .sort((a, b) => a.rank - b.rank)
    .flatMap(({ group }) => group)
}
