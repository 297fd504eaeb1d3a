import { randomBytes } from 'node:crypto'
import type { RetentionRules } from '../durable/index.js'
import { NOTIFY_PAYLOAD_LIMIT, type Query, textArray } from '../postgres/index.js'
import type { Notification, Outcome } from './batch-queue.js'
import { CAUGHT_UP } from './caught-up.js'
import type { FunctionCalls } from './function-calls.js'

/** The maximum size of a message if the schema is installed, in bytes: the value of pgws.max_bytes(). */
const MAX_STORED_BYTES = 64 * 1024 * 1024

export interface StatementsOptions {
  listenChannel: string
  query: Query
  durable: RetentionRules
  /** Sends the notifications for which a function of the database's owner is called. */
  functionCalls: FunctionCalls
  /** Whether a bus carries the messages between nodes. */
  byBus: boolean
  /** With a bus: whether what nobody retains is notified, too, for SQL sessions that listen. */
  notifySql: boolean
}

/** The statements that publish: with `pg_notify`, or with functions of the schema if messages must be stored. */
export class Statements {
  readonly #options: StatementsOptions
  /** Makes the keys of this server's durable messages unique. */
  readonly #keyPrefix = randomBytes(9).toString('base64url')
  #lastKey = 0

  constructor(options: StatementsOptions) {
    this.#options = options
  }

  /** The maximum size of a notification's payload, in bytes. */
  limit({ databaseChannel, call }: Notification): number {
    if (call !== undefined && call.kind !== 'message') return Number.POSITIVE_INFINITY
    const stored = this.#options.durable.installed && databaseChannel === undefined
    return stored ? MAX_STORED_BYTES : NOTIFY_PAYLOAD_LIMIT - 1
  }

  /** Whether sending a notification a second time has no effect. */
  repeatable({ channel, databaseChannel, call }: Notification): boolean {
    // A function must be called once for each message.
    if (databaseChannel !== undefined || call !== undefined) return false
    return this.#options.durable.ageOf(channel) !== undefined
  }

  /** Sends groups of notifications, all or the first of them, in one transaction. See BatchQueueOptions. */
  async send(groups: readonly (readonly Notification[])[]): Promise<readonly Outcome[]> {
    const called = groups.some((group) => group.some(({ call }) => call !== undefined))
    if (called) return this.#options.functionCalls.send(groups, (notification) => this.#keyOf(notification))
    await this.#send(groups.flat())
    return groups.map(() => undefined)
  }

  /** Sends notifications, and stores those of durable channels. */
  async #send(notifications: readonly Notification[]): Promise<void> {
    const { query, listenChannel, durable } = this.#options
    for (;;) {
      const version = durable.installed ? durable.retentionVersion : null
      const stored = notifications.filter((one) => version !== null && this.#mustBeStored(one))
      let sent: unknown
      if (stored.length === 0) {
        const payloads = notifications.map(({ payload }) => payload)
        const channels = notifications.some(({ databaseChannel }) => databaseChannel !== undefined)
          ? notifications.map(({ databaseChannel }) => databaseChannel ?? listenChannel)
          : listenChannel
        const { rows } = await query(...plainStatement(channels, payloads, version))
        sent = rows[0]!.sent === payloads.length ? payloads.length : null
      } else {
        // Payloads of raw channels are notified unchanged. All others are sent in order by pgws.relay. Raw payloads at the
        // beginning come first, because the notification that begins a publication must precede all of it.
        const start = notifications.findIndex(({ databaseChannel }) => databaseChannel === undefined)
        const before = notifications.slice(0, start)
        const raw = notifications.slice(start).filter(({ databaseChannel }) => databaseChannel !== undefined)
        const rest = notifications.filter(({ databaseChannel }) => databaseChannel === undefined)
        const ages = rest.map(({ channel }) => durable.ageOf(channel))
        const { rows } = await query(
          `${CAUGHT_UP} select (${rawPart('$9', '$10')}) as before,
            pgws.${!this.#options.notifySql ? 'relay_quietly' : 'relay'}($1, $2, $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[]::interval[],
              $6::pg_catalog.text[]) as sent,
            (${rawPart('$7', '$8')}) as raw
          from caught_up`,
          [
            version,
            listenChannel,
            textArray(rest.map(({ channel }) => channel)),
            textArray(rest.map(({ payload }) => payload)),
            textArray(ages.map((age) => (age === undefined ? null : `${age} seconds`))),
            textArray(
              rest.map((notification, i) =>
                ages[i] === undefined ? (notification.key ?? null) : this.#keyOf(notification)
              )
            ),
            textArray(raw.map(({ databaseChannel }) => databaseChannel!)),
            textArray(raw.map(({ payload }) => payload)),
            textArray(before.map(({ databaseChannel }) => databaseChannel!)),
            textArray(before.map(({ payload }) => payload))
          ]
        )
        sent = rows[0]!.sent
      }
      if (sent !== null) return
      // The retention rules have changed after they were read.
      await durable.refresh()
    }
  }

  #mustBeStored(notification: Notification): boolean {
    const { channel, payload, databaseChannel } = notification
    if (databaseChannel !== undefined) return false
    // With a bus, all messages get positions.
    if (this.#options.byBus) return true
    return this.#options.durable.ageOf(channel) !== undefined || !fitsNotification(payload)
  }

  /** The idempotency key of a message. It is the same each time the message is sent. */
  #keyOf(notification: Notification): string {
    notification.key ??= `${this.#keyPrefix}${(++this.#lastKey).toString(36).padStart(9, '0')}`
    return notification.key
  }
}

/**
 * Builds the statement that sends payloads with `pg_notify`.
 * @param channels the database channel of each payload, or the only one
 * @param version the version that the retention rules must still have; null if the schema is not installed
 */
function plainStatement(
  channels: string | readonly string[],
  payloads: readonly string[],
  version: string | null
): [text: string, values: unknown[]] {
  const one = typeof channels === 'string'
  // count() returns one row instead of one for each message.
  const [notify, from] = one
    ? ['pg_catalog.pg_notify($1, payload)', 'pg_catalog.unnest($2::pg_catalog.text[]) as payload']
    : [
        'pg_catalog.pg_notify(channel, payload)',
        'rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) as n (channel, payload)'
      ]
  const text = `select pg_catalog.count(${notify})::int as sent from ${from}`
  const values = [one ? channels : textArray(channels), textArray(payloads)]
  return version === null
    ? [text, values]
    : [
        `${CAUGHT_UP} ${text}, caught_up where $3 operator(pg_catalog.=) (select retention_version from pgws.settings)`,
        [...values, version]
      ]
}

/** The part of a statement that notifies raw channels, if the retention rules still have the version $1. */
function rawPart(channels: string, payloads: string): string {
  return `select pg_catalog.count(pg_catalog.pg_notify(r.channel, r.payload))
    from rows from (pg_catalog.unnest(${channels}::pg_catalog.text[]), pg_catalog.unnest(${payloads}::pg_catalog.text[]))
      r (channel, payload)
    where $1 operator(pg_catalog.=) (select retention_version from pgws.settings)`
}

function fitsNotification(payload: string): boolean {
  return Buffer.byteLength(payload) < NOTIFY_PAYLOAD_LIMIT
}
