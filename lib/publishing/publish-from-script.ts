import type pg from 'pg'
import type { Claims } from '../auth/index.js'
import { checkChannel } from '../channel-name.js'
import { optionSpecs } from '../config/option-specs.js'
import { errors } from '../errors.js'
import { binaryEnvelope, envelope, senderOf } from '../messages/index.js'
import { checkDatabaseChannel, ENCODING, isPartial, NOTIFY_PAYLOAD_LIMIT } from '../postgres/index.js'

export interface PublishOptions {
  /** The servers' option `listenChannel`. Default: `postgres-websockets-listener`. */
  listenChannel?: string | undefined
  /** The `claims` of the message, which say who sent it. Default: none. */
  claims?: Claims | undefined
}

/**
 * Publishes to a websocket channel from a process without a server. Uses `pgws.publish` if the schema `pgws` is installed,
 * and `pg_notify` otherwise.
 * @param target a pool of `pg`, or a client; with a client, the message is part of the client's transaction
 * @param channel the websocket channel
 * @param payload any JSON value, or bytes, which clients receive as a binary frame
 * @returns a promise that resolves when the statement has completed
 * @throws BadMessage for an invalid name or payload; PayloadTooLarge for a message of 8,000 bytes or more, if the schema
 *   `pgws` is not installed; the errors of the database
 */
export async function publish(
  target: pg.Pool | pg.ClientBase,
  channel: string,
  payload: unknown,
  options: PublishOptions = {}
): Promise<void> {
  // Its spec has the type `string`.
  const { listenChannel = optionSpecs.listenChannel.default as string, claims } = options
  if (typeof channel !== 'string') throw new errors.BadMessage('the channel must be a string')
  checkChannel(channel, 'the channel')
  if (payload === undefined) throw new errors.BadMessage('the payload must be a JSON value or bytes')
  checkDatabaseChannel(listenChannel)
  // The overloads of `query` of a pool and a client have no common type.
  const query = (text: string, values: unknown[]) => (target as pg.ClientBase).query(text, values)
  const bytes = payload instanceof Uint8Array ? Buffer.from(payload) : undefined
  const { rows } = await query(
    `select pg_catalog.to_regclass('pgws.settings') is not null as installed, ${ENCODING} as encoding`,
    []
  )
  const ascii = isPartial(rows[0].encoding)
  const body = () => {
    const sender = senderOf(claims ?? {})
    return bytes === undefined
      ? envelope('WebsocketMessage', channel, payload, sender, ascii)
      : binaryEnvelope(channel, bytes, sender, ascii)
  }
  if (rows[0].installed) {
    if (claims !== undefined) await query('select pgws.send($1, $2)', [channel, body()])
    else if (bytes !== undefined) await query('select pgws.publish_bytes($1, $2)', [channel, bytes])
    else if (typeof payload === 'string') await query('select pgws.publish_text($1, $2)', [channel, payload])
    else await query('select pgws.publish($1, $2)', [channel, JSON.stringify(payload)])
    return
  }
  const text = body()
  const length = Buffer.byteLength(text)
  if (length >= NOTIFY_PAYLOAD_LIMIT) throw new errors.PayloadTooLarge(length, NOTIFY_PAYLOAD_LIMIT - 1)
  await query('select pg_catalog.pg_notify($1, $2)', [listenChannel, text])
}
