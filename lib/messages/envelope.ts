import type { Claims } from '../auth/index.js'
import { jsonMembersOf, jsonOf, toAscii, withPossibleCharacters } from '../json-text.js'

/** The part that all envelopes of one sender share. */
export interface Sender {
  /** The JSON text of the sender's claims, up to where `message_delivered_at` is inserted. */
  readonly claimsPrefix: string
}

/**
 * Encodes the claims of a sender once for all of its envelopes.
 * @param claims the claims of the sender's token; a claim `message_delivered_at` is replaced
 * @param visible which of them others see: `['all']`, `['none']`, or names
 */
export function senderOf(claims: Claims, visible: readonly string[] = ['all']): Sender {
  const { message_delivered_at: _, ...rest } = claims
  const claimsShown = Object.fromEntries(Object.entries(rest).filter(([name]) => showsClaim(visible, name)))
  // A claim that the database cannot store must not keep the client from publishing.
  const members = withPossibleCharacters(jsonMembersOf(claimsShown))
  return { claimsPrefix: members === '' ? '{' : `{${members},` }
}

/** Whether others see a claim. @param visible as for `senderOf` */
export function showsClaim(visible: readonly string[], name: string): boolean {
  return visible[0] === 'all' || (visible[0] !== 'none' && visible.includes(name))
}

/**
 * The JSON text of a message, as postgres-websockets writes it.
 * @param event `WebsocketMessage`, `ConnectionOpen`, …
 * @param channel the websocket channel
 * @param payload the message; any JSON value, or its text
 * @param sender made by senderOf
 * @param ascii whether to escape all characters beyond ASCII outside of the payload, because the database's encoding
 *   lacks some characters
 */
export function envelope(
  event: string,
  channel: string,
  payload: unknown,
  sender: Sender,
  ascii = false
): string {
  return `${upToClaims(event, channel, payload, sender, ascii)}}`
}

/** The envelope of a binary message: its payload is base64, and it has `"encoding":"base64"`. */
export function binaryEnvelope(channel: string, payload: Buffer, sender: Sender, ascii = false): string {
  return `${upToClaims('Bytes', channel, payload.toString('base64'), sender, ascii)},"encoding":"base64"}`
}

function upToClaims(
  event: string,
  channel: string,
  payload: unknown,
  { claimsPrefix }: Sender,
  ascii: boolean
): string {
  const name = JSON.stringify(channel)
  return `{"event":${JSON.stringify(event)},"channel":${ascii ? toAscii(name) : name},"payload":${jsonOf(payload)},"claims":${ascii ? toAscii(claimsPrefix) : claimsPrefix}"message_delivered_at":${timestamp()}}`
}

let last = 0

/**
 * The time in Unix seconds, different for each call. PostgreSQL delivers equal notifications of a transaction only once
 * (sql-notify.html), so equal messages must differ in something.
 */
function timestamp(): number {
  last = Math.max(Date.now() * 1000, last + 1)
  return last / 1e6
}
