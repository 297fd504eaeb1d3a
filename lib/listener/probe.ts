import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { deadline, Silence } from './deadline.js'
import { sqlstateOfStatement } from './listening-session.js'

/** SQLSTATE of `NOTIFY` when the queue of the whole server is full (async.c: ERRCODE_PROGRAM_LIMIT_EXCEEDED). */
const QUEUE_FULL = '54000'

/** A notification that the listener sends to itself, to prove that notifications arrive. */
export class Probe {
  /** The database channel to listen to. */
  readonly channel = `pgws_probe_${randomUUID()}`
  #sent: { nonce: string; arrived: () => void } | undefined

  get underWay(): boolean {
    return this.#sent !== undefined
  }

  /** Takes the payload of a notification on `channel`. */
  receive(payload: string): void {
    if (payload === this.#sent?.nonce) this.#sent.arrived()
  }

  /**
   * Sends a probe. Resolves when it has arrived on the same connection, and the session listens to all channels.
   * @param channels returns the channels that it should listen to; one that is removed in the meantime does not count
   * @returns false if no session can send a notification, because the queue is full: this proves nothing, and another
   *   connection would not help
   * @throws Silence if the session does not listen, or if no probe arrives in time; Error if the connection fails
   */
  async send(client: pg.Client, channels: () => ReadonlySet<string>): Promise<boolean> {
    const expected = [...channels()]
    const nonce = randomUUID()
    try {
      return await deadline(
        (async () => {
          const arrived = new Promise<void>((resolve) => {
            this.#sent = { nonce, arrived: resolve }
          })
          const sent = await notify(client, this.channel, nonce)
          const { rows } = await client.query<{ channel: string }>(
            'select pg_catalog.pg_listening_channels() as channel'
          )
          const listening = new Set(rows.map(({ channel }) => channel))
          const missing = expected.find((name) => channels().has(name) && !listening.has(name))
          if (missing !== undefined) throw new Silence('the connection no longer listens to every channel')
          if (sent) await arrived
          return sent
        })()
      )
    } finally {
      this.#sent = undefined
    }
  }
}

/** @returns false if the queue is full */
async function notify(client: pg.Client, channel: string, payload: string): Promise<boolean> {
  try {
    await client.query('select pg_catalog.pg_notify($1, $2)', [channel, payload])
    return true
  } catch (error) {
    if (sqlstateOfStatement(error) === QUEUE_FULL) return false
    throw error
  }
}
