import { emitWarning } from 'node:process'
import { codeOf, errors } from '../errors.js'
import { type Tables, tablesOf } from './database/tables.js'

/** What `createAdapter(pool, options)` takes: as @socket.io/postgres-adapter. Durations are milliseconds. */
export interface AdapterOptions {
  /** The name of this node. Default: random. */
  uid?: string | undefined
  /** What database channels begin with. Default: `socket.io`. */
  channelPrefix?: string | undefined
  /** The table of packets that are binary or too large for a notification. Default: `socket_io_attachments`. */
  tableName?: string | undefined
  /** Packets of so many bytes go into the table. Default: 8000, which is also the most. */
  payloadThreshold?: number | undefined
  /** How long `fetchSockets` and `serverSideEmit` wait for the other nodes. Default: 5 s. */
  requestsTimeout?: number | undefined
  /** How often a node tells that it is there. Default: 5 s. */
  heartbeatInterval?: number | undefined
  /** After how long without a word a node counts as gone. Default: 10 s. */
  heartbeatTimeout?: number | undefined
  /** How old rows must be to be removed. Default: 30 s. */
  cleanupInterval?: number | undefined
  /** Told of each failure. Default: a warning of the process. */
  errorHandler?: ((error: Error) => void) | undefined
}

export interface ResolvedAdapterOptions {
  uid: string | undefined
  channelPrefix: string
  tables: Tables
  payloadThreshold: number
  requestsTimeout: number
  heartbeatInterval: number
  heartbeatTimeout: number
  cleanupInterval: number
  errorHandler: (error: Error) => void
}

/** The defaults of @socket.io/postgres-adapter 0.5. */
const numbers = {
  payloadThreshold: 8000,
  requestsTimeout: 5000,
  heartbeatInterval: 5000,
  heartbeatTimeout: 10_000,
  cleanupInterval: 30_000
}

/** The longest time that a timer can take. */
const MAX_TIME = 2 ** 31 - 1

/** @throws InvalidOption that says what is expected */
export function resolveAdapterOptions(options: AdapterOptions): ResolvedAdapterOptions {
  const { uid, channelPrefix = 'socket.io', tableName = 'socket_io_attachments', errorHandler } = options
  for (const [name, value] of Object.entries({ uid, channelPrefix })) {
    if (value !== undefined && typeof value !== 'string')
      throw new errors.InvalidOption(name, 'must be a string')
  }
  if (errorHandler !== undefined && typeof errorHandler !== 'function') {
    throw new errors.InvalidOption('errorHandler', 'must be a function')
  }
  const times = { ...numbers }
  for (const name of Object.keys(numbers) as (keyof typeof numbers)[]) {
    const value = options[name] ?? numbers[name]
    if (!Number.isSafeInteger(value) || value < 1 || value > MAX_TIME) {
      throw new errors.InvalidOption(name, `must be a whole number from 1 to ${MAX_TIME}`)
    }
    times[name] = value
  }
  return { uid, channelPrefix, tables: tablesOf(tableName), ...times, errorHandler: errorHandler ?? warn }
}

/** What is told where nobody asked to be told: seen, and no reason to end. */
export function warn(error: Error): void {
  emitWarning(error.message, 'SocketIoPostgresWarning', codeOf(error) ?? '')
}
