import { X509Certificate } from 'node:crypto'
import { existsSync } from 'node:fs'
import { isIPv4 } from 'node:net'
import { errors } from '../errors.js'
import { readFileValue } from './file-value.js'
import { variableOf } from './option-specs.js'
import type { ResolvedOptions } from './options.js'

/** The port of NATS (https://docs.nats.io/running-a-nats-service/configuration). */
const DEFAULT_PORT = '4222'

/** Tokens of a subject with dots (https://docs.nats.io/nats-concepts/subjects). `$` begins those of the servers. */
const PREFIX = /^[\w-]+(\.[\w-]+)*$/
const MAX_PREFIX = 200

const ONLY_WITH_BUS = ['busCredentials', 'busCa', 'busPrefix'] as const

/**
 * Checks the options of the bus, and replaces them by what they mean: servers with scheme and port, contents of files.
 * @throws InvalidOption
 */
export function resolveBus(options: ResolvedOptions): void {
  if (options.bus === undefined) {
    const useless = ONLY_WITH_BUS.find((name) => options[name] !== undefined)
    if (useless !== undefined) throw invalid(useless, 'has no effect without bus (PGWS_BUS)')
    return
  }
  const servers = readServers(options.bus)
  const { busCredentials, busCa, busPrefix } = options
  if (busCredentials !== undefined) {
    const text = readFileValue('busCredentials', busCredentials).trim()
    if (text === '') throw invalid('busCredentials', 'names a file that is empty')
    if (/^\.{0,2}\//.test(text) && existsSync(text)) {
      throw invalid('busCredentials', 'is the path of a file: write @ before the path')
    }
    options.busCredentials = text
  }
  const withTls = servers[0]?.protocol === 'tls:'
  if (busCa !== undefined) {
    if (!withTls) throw invalid('busCa', 'has no effect without TLS: write tls:// in bus (PGWS_BUS)')
    options.busCa = readCertificates(busCa)
  }
  if (busPrefix !== undefined && (!PREFIX.test(busPrefix) || busPrefix.length > MAX_PREFIX)) {
    throw invalid(
      'busPrefix',
      `must be a subject such as pgws.production: letters, digits, "_" and "-", with dots between, at most ${MAX_PREFIX} characters`
    )
  }
  const remote = servers.find((server) => !isLoopback(server.hostname))
  if (!withTls && remote !== undefined && !options.busInsecure) {
    throw invalid(
      'bus',
      `leads to the host "${remote.hostname}" without TLS, so anyone in between can read and send messages: write tls:// instead of nats://, or set busInsecure (PGWS_BUS_INSECURE=true) in a network that you trust`
    )
  }
  options.bus = servers.map((server) => `${server.protocol}//${server.host}`)
}

function readServers(texts: readonly string[]): URL[] {
  if (texts.length === 0) throw invalid('bus', 'must name a server: nats://host:4222, or tls://host:4222')
  const scheme = /^\w+:\/\//.exec(texts[0]!)?.[0] ?? 'nats://'
  const servers = texts.map((text) => readServer(text, scheme))
  if (servers.some(({ protocol }) => protocol !== servers[0]!.protocol)) {
    throw invalid('bus', 'mixes nats:// and tls://: use one of them for all servers')
  }
  return servers
}

/** @param scheme of a text without one */
function readServer(text: string, scheme: string): URL {
  const full = text.includes('://') ? text : `${scheme}${text}`
  const server = URL.canParse(full) ? new URL(full) : undefined
  if (server === undefined || !/^(nats|tls):$/.test(server.protocol) || server.hostname === '') {
    throw invalid('bus', 'must be a list of servers of NATS: nats://host:4222, or tls://host:4222')
  }
  if (server.username !== '' || server.password !== '') {
    throw invalid('bus', 'must not contain a user or password: set busCredentials (PGWS_BUS_CREDENTIALS)')
  }
  if (!/^\/?$/.test(server.pathname) || server.search !== '' || server.hash !== '') {
    throw invalid('bus', 'must be a list of servers without paths and parameters: nats://host:4222')
  }
  if (server.port === '') server.port = DEFAULT_PORT
  return server
}

function readCertificates(value: string): string {
  const text = readFileValue('busCa', value)
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)
  const areValid = blocks?.every((block) => {
    try {
      return new X509Certificate(block) !== undefined
    } catch {
      return false
    }
  })
  if (areValid) return text
  throw invalid('busCa', 'must be certificates in PEM (-----BEGIN CERTIFICATE----- …), or @file')
}

/** RFC 6761 (localhost), RFC 1122 (127.0.0.0/8), RFC 4291 (::1). */
function isLoopback(hostname: string): boolean {
  const host = hostname.toLowerCase()
  return host === 'localhost' || host === '[::1]' || (isIPv4(host) && host.startsWith('127.'))
}

function invalid(option: string, problem: string): Error {
  return new errors.InvalidOption(option, `(${variableOf(option)}) ${problem}`)
}
