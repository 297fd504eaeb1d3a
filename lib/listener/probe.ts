import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { deadline, Silence } from './deadline.js'

/** A notification to ourselves, which shows that others arrive, too. */
export class Probe {
  /** The database channel to listen to. */
  readonly channel = `pgws_probe_${randomUUID()}`
  #sent: { nonce: string; arrived: () => void } | undefined

  get underWay(): boolean {
    return this.#sent !== undefined
  }

  /** Takes what came on the channel. */
  receive(payload: string): void {
    if (payload === this.#sent?.nonce) this.#sent.arrived()
  }

  /**
   * Resolves when a probe has arrived on the connection that has sent it, which listens to all channels.
   * @param channels those that it should listen to; one that is gone meanwhile does not count
   * @throws Silence where it does not, or no probe arrives in time; Error where the connection fails
   */
  async send(client: pg.Client, channels: () => ReadonlySet<string>): Promise<void> {
    const expected = [...channels()]
    const nonce = randomUUID()
    try {
      await deadline(
        (async () => {
          const arrived = new Promise<void>((resolve) => {
            this.#sent = { nonce, arrived: resolve }
          })
          await client.query('select pg_catalog.pg_notify($1, $2)', [this.channel, nonce])
          const { rows } = await client.query<{ channel: string }>(
            'select pg_catalog.pg_listening_channels() as channel'
          )
          const listening = new Set(rows.map(({ channel }) => channel))
          const missing = expected.find((name) => channels().has(name) && !listening.has(name))
          if (missing !== undefined) throw new Silence('the connection no longer listens to every channel')
          await arrived
        })()
      )
    } finally {
      this.#sent = undefined
    }
  }
}
