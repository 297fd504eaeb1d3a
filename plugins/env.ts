import { existsSync, readFileSync } from 'node:fs'
import { parseEnv } from 'node:util'
import fastifyEnv from '@fastify/env'
import Fastify, { type FastifyInstance } from 'fastify'
import {
  boundsOf,
  expectation,
  isServiceUrl,
  optionSpecs,
  type PgWebsocketsOptions,
  type PluginOnly,
  readTrustProxy,
  serviceUrlProblem,
  unknownVariables,
  variableOf
} from '../lib/config/index.js'
import { messageOf } from '../lib/errors.js'
import { keysOf } from '../lib/keys-of.js'

/** The variables of the server that are not options of the plugin. */
interface AppConfig {
  host: string
  port: number
  rootPath: string | undefined
  certificateFile: string | undefined
  keyFile: string | undefined
  embeddedFolder: string
  audienceChannels: string | undefined
  audiencePath: string
  audiencePublic: boolean
  handshakeTimeout: number
  trustProxy: string | undefined
}

/** The values of the variables. `PGWS_SOME_NAME` is the property `someName`. */
export type Config = Omit<PgWebsocketsOptions, 'dbUri' | 'jwtSecret' | PluginOnly> &
  AppConfig & { dbUri: string | undefined; jwtSecret: string | undefined }

declare module 'fastify' {
  interface FastifyInstance {
    /** The configuration of the server, from the `PGWS_*` variables. */
    config: Config
  }
}

/** The specs of all variables. The first ones override the plugin's specs. */
export const variableSpecs: typeof optionSpecs & Record<keyof AppConfig, (typeof optionSpecs)['dbUri']> = {
  ...optionSpecs,
  // Not required, because the embedded database and a random secret are the defaults.
  dbUri: { type: 'string' },
  jwtSecret: { type: 'string' },
  // As in postgres-websockets: by default a lost listener ends the server, and its process manager restarts it.
  checkListenerInterval: { type: 'integer', minimum: 0, default: 0 },
  readyTimeout: { type: 'integer', minimum: 0, default: 1500 },
  // No defaults, because they depend on the database.
  dashboard: { type: 'boolean' },
  host: { type: 'string' },
  port: { type: 'integer', minimum: 0, maximum: 65535, default: 3000 },
  rootPath: { type: 'string' },
  certificateFile: { type: 'string' },
  keyFile: { type: 'string' },
  embeddedFolder: { type: 'string', default: '.embedded-postgres' },
  audienceChannels: { type: 'string' },
  audiencePath: { type: 'string', default: '/ws' },
  audiencePublic: { type: 'boolean', default: false },
  handshakeTimeout: { type: 'integer', minimum: 1, default: 10_000 },
  trustProxy: { type: 'string' }
}

const names = keysOf(variableSpecs)
const variables = names.map(variableOf)

/** Made once, because Ajv keeps what it has compiled by the schema's identity, and a start reads the variables twice. */
const schema = { type: 'object', properties: Object.fromEntries(names.map(propertyOf)), required: [] }

/** The default address. With the embedded database, the server prints an admin token, so it listens on localhost only. */
const DEFAULT_HOST = '*4'
const EMBEDDED_HOST = 'localhost'

/**
 * Reads the `PGWS_*` variables with @fastify/env, from the environment and a file `.env` (the environment takes
 * precedence), and decorates the instance with `config`. Logs a warning for other unknown variables, because a newer
 * version may have them.
 * @param purpose a `command` needs no key that verifies tokens
 * @throws Error that names every variable that is missing, malformed or misspelled
 */
export async function registerEnv(
  fastify: FastifyInstance,
  environment: NodeJS.ProcessEnv = process.env,
  purpose: 'server' | 'command' = 'server'
): Promise<Config> {
  const file = existsSync('.env') ? parseEnv(readFileSync('.env', 'utf8')) : {}
  const all = { ...file, ...environment }
  const data = normalize(all)
  const { misspelled, unknown } = unknownVariables(all, variables)
  const problems = [...misspelled]
  try {
    await fastify.register(fastifyEnv, {
      confKey: 'pgwsEnvironment',
      env: false,
      data,
      schema
    })
  } catch (error) {
    // @fastify/env rejects with an error that has Ajv's errors.
    const { errors } = error as { errors?: { instancePath: string }[] }
    if (errors === undefined) throw error
    for (const { instancePath } of errors) {
      const variable = instancePath.slice(1)
      const name = names.find((candidate) => variableOf(candidate) === variable)
      if (name === undefined) problems.push(messageOf(error))
      else if (isServiceUrl(data[variable] ?? '')) problems.push(serviceUrlProblem(variable))
      else problems.push(`${variable} must be ${expectation(variableSpecs[name])}`)
    }
  }
  for (const name of names) {
    // Ajv accepts 1e400 as an integer, and does not apply bounds to infinity.
    if (
      variableSpecs[name].type === 'integer' &&
      Number(data[variableOf(name)]) === Number.POSITIVE_INFINITY
    ) {
      problems.push(`${variableOf(name)} must be ${expectation(variableSpecs[name])}`)
    }
  }
  const keys = data.PGWS_JWT_SECRET ?? data.PGWS_JWKS_URL
  if (purpose === 'server' && data.PGWS_DB_URI !== undefined && keys === undefined) {
    problems.push(
      'PGWS_JWT_SECRET (or PGWS_JWKS_URL) is required with PGWS_DB_URI: there is no default secret'
    )
  }
  if ((data.PGWS_CERTIFICATE_FILE === undefined) !== (data.PGWS_KEY_FILE === undefined)) {
    problems.push('PGWS_CERTIFICATE_FILE and PGWS_KEY_FILE belong together: set both, or neither')
  }
  if (data.PGWS_METRICS_PORT !== undefined && Number(data.PGWS_METRICS_PORT) !== 0) {
    const port = Number(data.PGWS_PORT ?? variableSpecs.port.default)
    if (Number(data.PGWS_METRICS_PORT) === port) {
      problems.push(`PGWS_METRICS_PORT must not be PGWS_PORT (${port}): metrics need a port of their own`)
    }
  }
  if (data.PGWS_TRUST_PROXY !== undefined && readTrustProxy(data.PGWS_TRUST_PROXY) === undefined) {
    problems.push(
      'PGWS_TRUST_PROXY must be true, false, or a comma-separated list of addresses and networks, such as 10.0.0.0/8'
    )
  }
  if (problems.length > 0) throw new Error(`The configuration is invalid:\n  ${problems.join('\n  ')}`)
  if (unknown.length > 0) {
    fastify.log.warn(`ignoring variables that this version does not have: ${unknown.join(', ')}`)
  }

  // The types do not know the decorator of `confKey`.
  const read = (fastify as FastifyInstance & { pgwsEnvironment: Record<string, unknown> }).pgwsEnvironment
  // @fastify/env has checked the values against the specs.
  const config: Config = Object.fromEntries(names.map((name): unknown[] => [name, read[variableOf(name)]]))
  config.host ??= config.dbUri === undefined ? EMBEDDED_HOST : DEFAULT_HOST
  fastify.decorate('config', config)
  return config
}

/**
 * Reads the configuration before the server is created, because TLS is an option of the server.
 * @param warn is called with what `registerEnv` logs
 * @throws as `registerEnv`
 */
export async function readConfig(
  environment: NodeJS.ProcessEnv,
  purpose: 'server' | 'command' = 'server',
  warn?: (text: string) => void
): Promise<Config> {
  const stream = warn && { write: (line: string) => warn(JSON.parse(line).msg) }
  const reader = Fastify({ logger: stream === undefined ? false : { level: 'warn', stream } })
  try {
    // Fastify's type depends on the logger, but `registerEnv` does not.
    return await registerEnv(reader as FastifyInstance, environment, purpose)
  } finally {
    await reader.close()
  }
}

/** The options of the plugin that the configuration sets, but for the database. */
export function pluginOptions(config: Config): Omit<PgWebsocketsOptions, 'dbUri'> {
  const names = keysOf(optionSpecs).filter((name) => name !== 'dbUri')
  const { audienceChannels, audiencePath, audiencePublic } = config
  const channels = audienceChannels?.split(',').map((channel) => channel.trim())
  return {
    ...Object.fromEntries(names.map((name) => [name, config[name]])),
    ...(channels && { endpoints: [{ path: audiencePath, channels, public: audiencePublic }] })
  }
}

function propertyOf(name: keyof Config): [string, object] {
  const { type, default: value } = variableSpecs[name]
  const [minimum, maximum] = boundsOf(variableSpecs[name])
  const property = {
    // `resolveOptions` splits lists.
    type: type === 'list' ? 'string' : type,
    ...(type === 'integer' && { minimum, maximum }),
    ...(value !== undefined && { default: value })
  }
  return [variableOf(name), property]
}

/** Removes empty values, and converts booleans to lower case. */
function normalize(environment: NodeJS.ProcessEnv): Record<string, string> {
  const normalized: Record<string, string> = {}
  for (const name of names) {
    const variable = variableOf(name)
    const value = environment[variable]
    if (value === undefined || value.trim() === '') continue
    normalized[variable] = variableSpecs[name].type === 'boolean' ? value.trim().toLowerCase() : value
  }
  return normalized
}
