import { existsSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import type pg from 'pg'
import { passwordFor } from './password-file.js'
import { SSL_MODES, tlsAttempts } from './tls-attempts.js'

/** One attempt at a connection: a host, with or without TLS. */
export interface ConnectionTarget {
  config: pg.ClientConfig
  /** For messages: host and port. */
  name: string
  /** Whether it is the same host again, which is tried only after a TLS failure of the attempt before. */
  fallback: boolean
  sessionAttrs: SessionAttrs
  /** Whether the login must use channel binding (libpq-connect.html, channel_binding). */
  requiresChannelBinding: boolean
}

export type SessionAttrs = (typeof SESSION_ATTRS)[number]

/** The parameters of a connection string, by their names. */
export type Parameters = Map<string, string>

const CHANNEL_BINDINGS = ['disable', 'prefer', 'require']
const SESSION_ATTRS = ['any', 'read-write', 'read-only', 'primary', 'standby'] as const

const NO_VERIFY =
  'only node-postgres knows sslmode "no-verify": use sslmode=require, which does not check the certificate unless sslrootcert is set, or better sslmode=verify-full'

/** How long one attempt may take without `connect_timeout`, in milliseconds. */
const CONNECT_TIMEOUT = 5000

export const UNESCAPED =
  'the URI contains an unexpected "@": in its password, percent-encode "@" as %40, "/" as %2F and "?" as %3F'

/**
 * The connection attempts for some parameters, in order.
 * @throws Error that says what was expected
 */
export function targetsOf(parameters: Parameters, env: NodeJS.ProcessEnv): ConnectionTarget[] {
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
  // Only on request, because node-postgres supports it for fewer kinds of certificates than libpq.
  const channelBinding = oneOf(
    CHANNEL_BINDINGS,
    'channel_binding',
    parameters.get('channel_binding') ?? 'disable'
  )
  // LISTEN and NOTIFY do not work on a hot standby (https://www.postgresql.org/docs/current/hot-standby.html).
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
        sessionAttrs,
        requiresChannelBinding: channelBinding === 'require'
      })
    }
  }
  return parameters.get('load_balance_hosts') === 'random' ? shuffleHosts(targets) : targets
}

function defaultHost(): string {
  return (
    ['/var/run/postgresql', '/tmp'].find((folder) => existsSync(join(folder, '.s.PGSQL.5432'))) ?? 'localhost'
  )
}

function oneOf<Value extends string>(values: readonly Value[], name: string, value: string): Value {
  const known = values.find((one) => one === value)
  if (known === undefined) throw new Error(`${name} must be one of ${values.join(', ')}`)
  return known
}

function wholeNumber(name: string, value: string, minimum: number, maximum: number): number {
  const number = Number(value)
  if (!/^\d+$/.test(value) || number < minimum || number > maximum) {
    throw new Error(`${name} must be a whole number from ${minimum} to ${Math.floor(maximum)}`)
  }
  return number
}

/** Shuffles the attempts, but keeps the second attempt at a host after the first. */
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
