import type { Claims } from './claims.js'

/**
 * PostgreSQL refuses a notification whose payload has this many bytes or more
 * (https://www.postgresql.org/docs/current/sql-notify.html, and NOTIFY_PAYLOAD_MAX_LENGTH in async.c).
 */
export const NOTIFY_PAYLOAD_LIMIT = 8000

/** A message that is sent again with other words: what all envelopes of one sender share. */
export interface Sender {
  /** The JSON text of the sender's claims up to where `message_delivered_at` goes. */
  readonly claimsPrefix: string
}

/**
 * The websocket channel that a notification is for.
 * @param payload the notification's payload
 * @returns the `channel` of a payload that is a JSON object with a string `channel`, else undefined
 */
export function channelOf(payload: string): string | undefined {
  // Most payloads that are no envelope are told from their first character, with no exception thrown.
  if (!/^[ \t\r\n]*\{/.test(payload)) return undefined
  try {
    const { channel } = JSON.parse(payload)
    return typeof channel === 'string' ? channel : undefined
  } catch {
    return undefined
  }
}

/**
 * Prepares a sender's part of its envelopes once, not for each message.
 * @param claims the claims of the sender's token; a `message_delivered_at` of its own is replaced
 */
export function senderOf(claims: Claims): Sender {
  const { message_delivered_at: _, ...rest } = claims
  const text = JSON.stringify(rest)
  return { claimsPrefix: text === '{}' ? '{' : `${text.slice(0, -1)},` }
}

/**
 * The JSON text of a message, as postgres-websockets writes it.
 * @param event `WebsocketMessage`, `ConnectionOpen`, …
 * @param channel the websocket channel
 * @param payload the message; any JSON value
 * @param sender made by senderOf
 */
export function envelope(event: string, channel: string, payload: unknown, sender: Sender): string {
  return `{"event":${JSON.stringify(event)},"channel":${JSON.stringify(channel)},"payload":${JSON.stringify(payload)},"claims":${sender.claimsPrefix}"message_delivered_at":${timestamp()}}}`
}

let last = 0

/**
 * Unix seconds, never the same twice in one process: PostgreSQL folds notifications of one transaction whose
 * texts are equal into one (sql-notify.html), so equal messages must differ in something.
 */
function timestamp(): number {
  last = Math.max(Date.now() * 1000, last + 1)
  return last / 1e6
}
