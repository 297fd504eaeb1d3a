import type { PgWebsocketsOptions } from './options.js'

export interface OptionSpec {
  type: 'string' | 'boolean' | 'integer' | 'list'
  minimum?: number
  maximum?: number
  default?: string | boolean | number
  required?: boolean
}

/** The longest delay of a timer, in milliseconds: `setInterval` fires immediately for a longer one. */
const MAX_INTEGER = 2 ** 31 - 1

/** Options that have no environment variable. */
export const PLUGIN_ONLY = ['prefix', 'endpoints', 'decorator'] as const
export type PluginOnly = (typeof PLUGIN_ONLY)[number]

/** Type, default and bounds of each option. The option `someName` is the server's variable `PGWS_SOME_NAME`. */
export const optionSpecs: Record<Exclude<keyof PgWebsocketsOptions, PluginOnly>, OptionSpec> = {
  dbUri: { type: 'string', required: true },
  listenerUri: { type: 'string' },
  jwtSecret: { type: 'string' },
  jwtSecretBase64: { type: 'boolean', default: false },
  jwksUrl: { type: 'string' },
  jwtAudience: { type: 'string' },
  jwtIssuer: { type: 'string' },
  modeClaim: { type: 'string' },
  defaultMode: { type: 'string' },
  channelsClaim: { type: 'string' },
  channelPatternsClaim: { type: 'string' },
  adminClaim: { type: 'string' },
  tokenCookie: { type: 'string' },
  allowedOrigins: { type: 'list' },
  listenChannel: { type: 'string', default: 'postgres-websockets-listener' },
  rawChannels: { type: 'list' },
  presenceChannels: { type: 'list' },
  metaChannel: { type: 'string' },
  envelopeClaims: { type: 'list', default: 'all' },
  poolSize: { type: 'integer', minimum: 1, default: 10 },
  retries: { type: 'integer', minimum: 1, default: 5 },
  checkListenerInterval: { type: 'integer', minimum: 0, default: 10_000 },
  readyTimeout: { type: 'integer', minimum: 0, default: 5000 },
  publishTimeout: { type: 'integer', minimum: 0, default: 10_000 },
  shutdownTimeout: { type: 'integer', minimum: 100, default: 5000 },
  nodeTimeout: { type: 'integer', minimum: 100, default: 10_000 },
  migrate: { type: 'boolean', default: false },
  bus: { type: 'list' },
  busCredentials: { type: 'string' },
  busCa: { type: 'string' },
  busPrefix: { type: 'string' },
  busInsecure: { type: 'boolean', default: false },
  notifySql: { type: 'boolean', default: true },
  maxBufferedBytes: { type: 'integer', minimum: 1, default: 1024 * 1024 },
  maxTotalBufferedBytes: { type: 'integer', minimum: 1, default: 256 * 1024 * 1024 },
  slowTimeout: { type: 'integer', minimum: 0, default: 5000 },
  maxMessageBytes: { type: 'integer', minimum: 1, default: 1024 * 1024 },
  maxHistoryBytes: { type: 'integer', minimum: 1, default: 8 * 1024 * 1024 },
  maxConnections: { type: 'integer', minimum: 1 },
  maxConnectionsPerIp: { type: 'integer', minimum: 1 },
  maxChannelsPerConnection: { type: 'integer', minimum: 1, default: 100 },
  messageRate: { type: 'integer', minimum: 1, default: 5000 },
  httpRateLimit: { type: 'integer', minimum: 1 },
  metrics: { type: 'boolean', default: true },
  metricsPort: { type: 'integer', maximum: 65535 },
  documentation: { type: 'boolean', default: true },
  dashboard: { type: 'boolean', default: false },
  onMessageFunction: { type: 'string' },
  authorizeFunction: { type: 'string' },
  authorizeTtl: { type: 'integer', minimum: 0, default: 0 },
  onConnectFunction: { type: 'string' },
  onDisconnectFunction: { type: 'string' },
  roleClaim: { type: 'string' }
}

/** The variable of an option: `someName` → `PGWS_SOME_NAME`. */
export function variableOf(option: string): string {
  return `PGWS_${option.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

/** The smallest and the largest value of an integer option. */
export function boundsOf({ minimum = 0, maximum = MAX_INTEGER }: OptionSpec): [number, number] {
  return [minimum, maximum]
}

/** Says in words what a value must be, for an error message. */
export function expectation(spec: OptionSpec): string {
  if (spec.type === 'boolean') return 'true or false'
  if (spec.type === 'integer') return `a whole number from ${boundsOf(spec).join(' to ')}`
  if (spec.type === 'list') return 'a list of strings, or one string with commas'
  return 'a string'
}
