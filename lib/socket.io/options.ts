import { emitWarning } from 'node:process'
import { codeOf, errors } from '../errors.js'
import { keysOf } from '../keys-of.js'
import { type Tables, tablesOf } from './database/tables.js'

/** The options of `createAdapter`, as in @socket.io/postgres-adapter. Durations are in milliseconds, sizes in bytes. */
export interface AdapterOptions {
  /** The name of this node, unique in the cluster. Default: random. */
  uid?: string | undefined
  /** The prefix of the database channels. Default: `socket.io`. */
  channelPrefix?: string | undefined
  /** The table for packets that are binary or too large for a notification. Default: `socket_io_attachments`. */
  tableName?: string | undefined
  /** The size from which packets are stored in the table. Default: 8000, which is also the maximum. */
  payloadThreshold?: number | undefined
  /** How long `fetchSockets` and `serverSideEmit` wait for the other nodes. Default: 5 s. */
  requestsTimeout?: number | undefined
  /** How often a node sends a heartbeat. Default: 5 s. */
  heartbeatInterval?: number | undefined
  /** How long a node may be silent before the others regard it as gone. Default: 10 s. */
  heartbeatTimeout?: number | undefined
  /** How old rows must be before they are deleted. Default: 30 s. */
  cleanupInterval?: number | undefined
  /** Is called with each failure. Default: `process.emitWarning`. */
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

/** The longest delay of a timer. */
const MAX_TIME = 2 ** 31 - 1

/** Checks the options, and sets the defaults. @throws InvalidOption, which says what is expected */
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
  for (const name of keysOf(numbers)) {
    const value = options[name] ?? numbers[name]
    if (!Number.isSafeInteger(value) || value < 1 || value > MAX_TIME) {
      throw new errors.InvalidOption(name, `must be a whole number from 1 to ${MAX_TIME}`)
    }
    times[name] = value
  }
  return { uid, channelPrefix, tables: tablesOf(tableName), ...times, errorHandler: errorHandler ?? warn }
}

/** The default `errorHandler`: a warning, which does not end the process. */
export function warn(error: Error): void {
  emitWarning(error.message, 'SocketIoPostgresWarning', codeOf(error) ?? '')
}
