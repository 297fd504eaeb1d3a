import { readFileSync } from 'node:fs'
import { errors, messageOf } from './errors.js'
import { checkChannelName } from './listener.js'

/** What `fastify.register(pgWebsockets, options)` takes. Durations are milliseconds. */
export interface PgWebsocketsOptions {
  /** A libpq connection URI or keyword string; `@file` reads it from a file. */
  dbUri: string
  /** A secret, a JWK, a JWK set or a public key in PEM; `@file` reads it from a file. */
  jwtSecret: string
  /** The secret is base64. Default: false. */
  jwtSecretBase64?: boolean | undefined
  /** The database channel that carries the messages. Default: `postgres-websockets-listener`. */
  listenChannel?: string | undefined
  /** The websocket channel that is told of connections. Default: none. */
  metaChannel?: string | undefined
  /** How many connections publish. Default: 10. */
  poolSize?: number | undefined
  /** How many times the first connection is tried where the listener is not supervised. Default: 5. */
  retries?: number | undefined
  /** How often the listener's connection must prove that it is alive; 0 or unset in the app: never. */
  checkListenerInterval?: number | undefined
  /** How long `ready()` waits for a database that is not there, where the listener is supervised. */
  readyTimeout?: number | undefined
  /** How many bytes may wait for a client that does not read. Default: 1 MiB. */
  maxBufferedBytes?: number | undefined
  /** Serve the OpenAPI document and its page below `/documentation`. Default: true. */
  documentation?: boolean | undefined
  /** Put before all addresses, as everywhere in Fastify. */
  prefix?: string | undefined
}

/** The options with all defaults in place and `@file` values read. */
export type ResolvedOptions = Required<Omit<PgWebsocketsOptions, 'metaChannel' | 'prefix'>> & {
  metaChannel: string | undefined
  prefix: string
}

interface OptionSpec {
  type: 'string' | 'boolean' | 'integer'
  minimum?: number
  maximum?: number
  default?: string | boolean | number
  required?: boolean
}

/** The longest time that a timer can take, in milliseconds: setInterval fires at once for more. */
const MAX_INTEGER = 2 ** 31 - 1

/** Each option once: type, default, bounds. The app's `PGWS_SOME_NAME` is the option `someName`. */
export const optionSpecs: Record<Exclude<keyof PgWebsocketsOptions, 'prefix'>, OptionSpec> = {
  dbUri: { type: 'string', required: true },
  jwtSecret: { type: 'string', required: true },
  jwtSecretBase64: { type: 'boolean', default: false },
  listenChannel: { type: 'string', default: 'postgres-websockets-listener' },
  metaChannel: { type: 'string' },
  poolSize: { type: 'integer', minimum: 1, default: 10 },
  retries: { type: 'integer', minimum: 1, default: 5 },
  checkListenerInterval: { type: 'integer', minimum: 0, default: 10_000 },
  readyTimeout: { type: 'integer', minimum: 0, default: 5000 },
  maxBufferedBytes: { type: 'integer', minimum: 1, default: 1024 * 1024 },
  documentation: { type: 'boolean', default: true }
}

/** The variable of an option: `someName` → `PGWS_SOME_NAME`. */
export function variableOf(option: string): string {
  return `PGWS_${option.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

/**
 * Checks the options and fills in what is not given.
 * @throws InvalidOption that names the option and what it expects; never its value, which may be a secret
 */
export function resolveOptions(options: PgWebsocketsOptions): ResolvedOptions {
  const given = options as unknown as Record<string, unknown>
  const resolved: Record<string, unknown> = { prefix: options.prefix ?? '' }
  for (const [name, spec] of Object.entries(optionSpecs)) {
    // An empty text is unset, as it is for variables.
    const value = given[name] === '' || given[name] === null ? undefined : given[name]
    if (value === undefined) {
      if (spec.required) {
        throw new errors.InvalidOption(name, `(${variableOf(name)}) is required: ${REQUIRED[name]}`)
      }
      resolved[name] = spec.default
      continue
    }
    const [least, most] = boundsOf(spec)
    const right =
      spec.type === 'integer'
        ? Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most
        : typeof value === spec.type
    if (!right) throw new errors.InvalidOption(name, `(${variableOf(name)}) must be ${expectation(spec)}`)
    resolved[name] = value
  }
  for (const name of Object.keys(given)) {
    if (name !== 'prefix' && !(name in optionSpecs)) {
      throw new errors.InvalidOption(name, `is unknown; known are ${Object.keys(optionSpecs).join(', ')}`)
    }
  }
  const all = resolved as unknown as ResolvedOptions
  all.dbUri = readFileValue('dbUri', all.dbUri).trim()
  // One trailing newline is what editors add; all other white space may belong to the secret.
  all.jwtSecret = readFileValue('jwtSecret', all.jwtSecret).replace(
    /\r?\n$/,
    all.jwtSecret.startsWith('@') ? '' : '$&'
  )
  try {
    checkChannelName(all.listenChannel)
  } catch (error) {
    throw new errors.InvalidOption('listenChannel', `(PGWS_LISTEN_CHANNEL): ${messageOf(error)}`)
  }
  return all
}

const REQUIRED: Record<string, string> = {
  dbUri: 'a libpq connection URI or keyword string, or @file',
  jwtSecret: 'a secret, a JWK, a JWK set, a public key in PEM, or @file'
}

/** The least and the most that an integer may be. */
export function boundsOf({ minimum = 0, maximum = MAX_INTEGER }: OptionSpec): [number, number] {
  return [minimum, maximum]
}

/** What a value must be, in words. */
export function expectation(spec: OptionSpec): string {
  if (spec.type === 'boolean') return 'true or false'
  if (spec.type === 'integer') return `a whole number from ${boundsOf(spec).join(' to ')}`
  return 'a text'
}

function readFileValue(name: string, value: string): string {
  if (!value.startsWith('@')) return value
  try {
    return readFileSync(value.slice(1), 'utf8')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw new errors.InvalidOption(name, `(${variableOf(name)}) names a file that cannot be read (${code})`)
  }
}
