import { channelNameProblem } from '../../../channel-name.js'

/**
 * Centrifugo's client protocol (https://centrifugal.dev/docs/transports/client_protocol), whichever encoding a client
 * speaks.
 */

/** Errors in replies. After a `temporary` one, the SDK retries. */
export const ERRORS = {
  INTERNAL: { code: 100, message: 'internal server error', temporary: true },
  PERMISSION_DENIED: { code: 103, message: 'permission denied' },
  ALREADY_SUBSCRIBED: { code: 105, message: 'already subscribed' },
  LIMIT_EXCEEDED: { code: 106, message: 'limit exceeded' },
  BAD_REQUEST: { code: 107, message: 'bad request' },
  NOT_AVAILABLE: { code: 108, message: 'not available' },
  TOKEN_EXPIRED: { code: 109, message: 'token expired' },
  UNRECOVERABLE_POSITION: { code: 112, message: 'unrecoverable position' }
} as const satisfies Record<string, ProtocolError>

export interface ProtocolError {
  code: number
  message: string
  temporary?: boolean
}

/** The code for a message that `onMessageFunction` refused. The text is that of the function's error. */
export const REJECTED = 422

/**
 * Close codes. The SDK reconnects after 3000 to 3499, and not after 3500 to 3999, provided that there is a reason.
 */
export const DISCONNECT = {
  SHUTDOWN: { code: 3001, reason: 'shutdown' },
  SERVER_ERROR: { code: 3004, reason: 'internal server error' },
  EXPIRED: { code: 3005, reason: 'connection expired' },
  INSUFFICIENT_STATE: { code: 3010, reason: 'insufficient state' },
  NO_PONG: { code: 3012, reason: 'no pong' },
  TOO_MANY_REQUESTS: { code: 3013, reason: 'too many requests' },
  INVALID_TOKEN: { code: 3500, reason: 'invalid token' },
  TOKEN_REVOKED: { code: 3500, reason: 'token revoked' },
  BAD_REQUEST: { code: 3501, reason: 'bad request' },
  STALE: { code: 3502, reason: 'stale' },
  FORCED: { code: 3503, reason: 'disconnected' },
  INAPPROPRIATE_PROTOCOL: {
    code: 3506,
    reason: 'inappropriate protocol: server-sent events have no protobuf, http_stream has'
  }
} as const satisfies Record<string, Disconnect>

export interface Disconnect {
  code: number
  reason: string
}

/** Codes for the end of a subscription. The SDK subscribes again after 2500 and above. */
export const UNSUBSCRIBE = {
  SERVER: { code: 2000, reason: 'server unsubscribe' },
  INSUFFICIENT_STATE: { code: 2500, reason: 'insufficient state' },
  EXPIRED: { code: 2501, reason: 'subscription expired' }
} as const satisfies Record<string, Disconnect>

/** An error that answers a command. */
export class CommandError extends Error {
  readonly error: ProtocolError

  constructor(error: ProtocolError, message?: string) {
    super(message ?? error.message)
    this.error = message === undefined ? error : { ...error, message }
  }
}

/** An error that closes the connection. */
export class DisconnectError extends Error {
  readonly disconnect: Disconnect

  /**
   * @param detail what was wrong; it is added to the close reason
   * @param cause what was wrong in more words, which the client does not get
   */
  constructor({ code, reason }: Disconnect, detail?: string, cause?: Error) {
    super(reason, { cause })
    this.disconnect = { code, reason: cut(detail === undefined ? reason : `${reason}: ${detail}`) }
  }
}

/** One command, whichever encoding it came in. `send` has no id: it is 0. */
export interface Command {
  id: number
  method: string
  /** Its parameters, by the names of the protocol. The `data` of a publish is a `JsonText`, or bytes that are not JSON. */
  params: Record<string, unknown>
}

/** The answer to a ping: a command without content. */
export const PONG = Symbol('pong')

/** What a client sends: a command, the answer to a ping, an error for anything else, or nothing for an empty line. */
export type Incoming = Command | typeof PONG | Error | undefined

/** A string parameter of a command; empty if it is missing. @throws DisconnectError for any other type */
export function textOf(params: Record<string, unknown>, name: string): string {
  const value = params[name] ?? ''
  if (typeof value !== 'string') throw new DisconnectError(DISCONNECT.BAD_REQUEST, `${name} must be a string`)
  return value
}

/**
 * The channel of a command.
 * @throws DisconnectError if it is missing; CommandError if it is not a valid name
 */
export function channelOf(params: Record<string, unknown>): string {
  const channel = textOf(params, 'channel')
  if (channel === '') throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'the channel is missing')
  const problem = channelNameProblem(channel)
  if (problem !== undefined) throw new CommandError(ERRORS.BAD_REQUEST, problem)
  return channel
}

/** A close reason has at most 123 bytes (RFC 6455, section 5.5). */
function cut(reason: string): string {
  return Buffer.from(reason)
    .subarray(0, 123)
    .toString('utf8')
    .replace(/\ufffd$/, '')
}
