import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { errors, messageOf } from '../errors.js'
import { BatchQueue, MAY_WAIT } from '../publishing/batch-queue.js'
import { publishStatement } from './database/publish-statement.js'
import { classify, guardPool, queryPool, refuseNative } from './database/user-pool.js'
import { type AdapterOptions, resolveAdapterOptions } from './options.js'
import { type Message, type Packet, packetOf } from './packets/packet.js'

/** How long packets wait for an unavailable database, in milliseconds. */
const PUBLISH_TIMEOUT = 10_000

/** How long the answer to whether the servers keep packets is cached, in milliseconds. */
const DETECTION_TIME = 10_000

/** Nodes do not count a sender with this name as a node. */
const EMITTER_UID = 'emitter'

/** Identifies this process as the sender of its kept packets. */
const origin = `${EMITTER_UID}-${randomBytes(9).toString('base64url')}`
let lastNumber = 0

export type EmitterOptions = Pick<
  AdapterOptions,
  'channelPrefix' | 'tableName' | 'payloadThreshold' | 'errorHandler'
>

/** Publishes packets in order: through a pool, many in one statement; or on the caller's client, in its transaction. */
export class PacketPublisher {
  readonly options: ReturnType<typeof resolveAdapterOptions>
  /** The caller's client, or else a queue for the caller's pool. */
  readonly #client: pg.ClientBase | undefined
  readonly #queue: BatchQueue<Packet> | undefined
  #recovery = false
  #detected: number | undefined
  #waiting = 0
  #chain: Promise<unknown> = Promise.resolve()
  readonly #unsettled = new Set<Promise<void>>()
  #failure: Error | undefined

  constructor(target: pg.Pool | pg.ClientBase, options: EmitterOptions) {
    this.options = resolveAdapterOptions(options)
    if (!('totalCount' in target)) {
      this.#client = target
      return
    }
    guardPool(target)
    this.#queue = new BatchQueue({
      send: async (groups) => {
        await this.#detect((text, values) => queryPool(target, text, values))
        await queryPool(target, ...this.#statement(groups.flat()))
        return groups.map(() => undefined)
      },
      limit: () => Number.MAX_SAFE_INTEGER,
      repeatable: ({ kept }) => this.#recovery && kept !== undefined,
      ready: () => true,
      timeout: PUBLISH_TIMEOUT,
      onBatch: () => {}
    })
  }

  /** @param channel the database channel of the message's namespace */
  publish(channel: string, message: Omit<Message, 'uid'>): Promise<void> {
    const published = this.#publish(channel, message).catch((error) => {
      throw new errors.SocketIoNotPublished(messageOf(error))
    })
    const settled = published.catch((error) => {
      this.#failure ??= error
      this.options.errorHandler(error)
    })
    this.#unsettled.add(settled)
    settled.then(() => this.#unsettled.delete(settled))
    return published
  }

  /** @throws the first failure since the last call */
  async flushed(): Promise<void> {
    await Promise.all(this.#unsettled)
    const failure = this.#failure
    this.#failure = undefined
    if (failure !== undefined) throw failure
  }

  async #publish(channel: string, message: Omit<Message, 'uid'>): Promise<void> {
    const { payloadThreshold } = this.options
    const whole = { uid: EMITTER_UID, ...message }
    const packet = packetOf(channel, whole, ++lastNumber, payloadThreshold, origin)
    if (this.#queue !== undefined) return this.#queue.publish([packet], MAY_WAIT)
    const client = this.#client!
    refuseNative(client)
    const send = () => client.query(...this.#statement([packet]))
    try {
      // If nothing has to be waited for, the statement is sent before this function returns. So it is part of the
      // transaction even if the caller commits without waiting.
      if (this.#detected !== undefined && this.#waiting === 0) {
        await send()
        return
      }
      this.#waiting++
      const sent = this.#chain
        .then(() => this.#detect((text, values) => client.query(text, values)))
        .then(send)
        .finally(() => this.#waiting--)
      this.#chain = sent.catch(() => {})
      await sent
    } catch (error) {
      throw classify(error)
    }
  }

  #statement(packets: readonly Packet[]): [text: string, values: unknown[]] {
    const { tables } = this.options
    return publishStatement(tables, this.#recovery ? packets : packets.map(({ kept, ...packet }) => packet))
  }

  /** Finds out whether the servers keep packets for connection state recovery. They do if its tables exist. */
  async #detect(query: (text: string, values: unknown[]) => Promise<pg.QueryResult>): Promise<void> {
    if (this.#detected !== undefined && performance.now() - this.#detected < DETECTION_TIME) return
    const { rows } = await query('select pg_catalog.to_regclass($1) is not null as found', [
      this.options.tables.recovery
    ])
    this.#recovery = rows[0].found
    this.#detected = performance.now()
  }
}
