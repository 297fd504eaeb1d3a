import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { errors, messageOf } from '../errors.js'
import { BatchQueue, MAY_WAIT } from '../publishing/batch-queue.js'
import { publishStatement } from './database/publish-statement.js'
import { classify, guardPool, queryPool } from './database/user-pool.js'
import { type AdapterOptions, resolveAdapterOptions } from './options.js'
import { type Message, type Packet, packetOf } from './packets/packet.js'

/** How long packets wait for a database that is away, in milliseconds. */
const PUBLISH_TIMEOUT = 10_000

/** How long it is believed whether the servers keep packets for clients that come back, in milliseconds. */
const DETECTION_TIME = 10_000

/** Nodes do not count who has this name. */
const EMITTER_UID = 'emitter'

/** This process, and its packets, among all that are kept. */
const origin = `${EMITTER_UID}-${randomBytes(9).toString('base64url')}`
let lastNumber = 0

export type EmitterOptions = Pick<
  AdapterOptions,
  'channelPrefix' | 'tableName' | 'payloadThreshold' | 'errorHandler'
>

/** Publishes in order: through a pool, many at once; or on the caller's client, within its transaction. */
export class PacketPublisher {
  readonly options: ReturnType<typeof resolveAdapterOptions>
  readonly #target: pg.Pool | pg.ClientBase
  readonly #queue: BatchQueue | undefined
  #recovery = false
  #detected: number | undefined
  #waiting = 0
  #chain: Promise<unknown> = Promise.resolve()
  readonly #unsettled = new Set<Promise<void>>()
  #failure: Error | undefined

  constructor(target: pg.Pool | pg.ClientBase, options: EmitterOptions) {
    this.options = resolveAdapterOptions(options)
    this.#target = target
    if (!('totalCount' in target)) return
    guardPool(target)
    this.#queue = new BatchQueue({
      send: async (groups) => {
        await this.#detect((text, values) => queryPool(target, text, values))
        await queryPool(target, ...this.#statement(groups.flat() as readonly Packet[]))
        return groups.map(() => undefined)
      },
      limit: () => Number.MAX_SAFE_INTEGER,
      repeatable: (packet) => this.#recovery && (packet as Packet).kept !== undefined,
      ready: () => true,
      timeout: PUBLISH_TIMEOUT,
      onBatch: () => {}
    })
  }

  publish(message: Omit<Message, 'uid'>): Promise<void> {
    const published = this.#publish(message).catch((error) => {
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

  async #publish(message: Omit<Message, 'uid'>): Promise<void> {
    const { channelPrefix, payloadThreshold } = this.options
    const whole = { uid: EMITTER_UID, ...message }
    const packet = packetOf(channelPrefix, whole, ++lastNumber, payloadThreshold, origin)
    if (this.#queue !== undefined) return this.#queue.publish([packet], MAY_WAIT)
    const client = this.#target as pg.ClientBase
    const send = () => client.query(...this.#statement([packet]))
    try {
      // Where nothing is waited for, it is sent before this function returns: so it is part of a transaction that the
      // caller commits next.
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

  /** Whether the servers keep packets for clients that come back: they have made the tables. */
  async #detect(query: (text: string, values: unknown[]) => Promise<pg.QueryResult>): Promise<void> {
    if (this.#detected !== undefined && performance.now() - this.#detected < DETECTION_TIME) return
    const { rows } = await query('select pg_catalog.to_regclass($1) is not null as there', [
      this.options.tables.recovery
    ])
    this.#recovery = rows[0].there
    this.#detected = performance.now()
  }
}
