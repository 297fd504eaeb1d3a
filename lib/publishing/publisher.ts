import { isUtf8 } from 'node:buffer'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Caller } from '../auth/index.js'
import type { RawChannels } from '../channels/index.js'
import type { RetentionRules } from '../durable/index.js'
import { asBadMessage, codeOf, errors } from '../errors.js'
import { hasImpossibleCharacter, JsonText, jsonOf, withPossibleCharacters } from '../json-text.js'
import type { Log } from '../log.js'
import { binaryEnvelope, envelope, isReserved, type Sender } from '../messages/index.js'
import type { Metrics } from '../metrics.js'
import type { Query } from '../postgres/index.js'
import {
  BatchQueue,
  type BatchQueueOptions,
  MAX_BATCH,
  MAX_BATCH_BYTES,
  MAY_WAIT,
  type Notification,
  type PublishHow
} from './batch-queue.js'
import { FunctionCalls, type FunctionCallsOptions } from './function-calls.js'
import { Statements } from './statements.js'

export interface PublisherOptions extends FunctionCallsOptions {
  metaChannel: string | undefined
  /** How long what may wait waits for the database, in milliseconds. */
  publishTimeout: number
  query: Query
  /** Whether this server listens, and knows what is durable. */
  ready: () => boolean
  durable: RetentionRules
  rawChannels: RawChannels
  metrics: Metrics
  log: Log
}

/** All that this server sends to the database, in order: messages, and what it tells of its clients. */
export class Publisher {
  readonly #options: PublisherOptions
  readonly #queue: BatchQueue
  /** Large requests, one after the other, beside all else: nobody waits for them. */
  readonly #large: BatchQueue

  constructor(options: PublisherOptions) {
    this.#options = options
    const { metrics } = options
    const statements = new Statements({ ...options, functionCalls: new FunctionCalls(options) })
    const queueOptions: BatchQueueOptions = {
      send: (groups) => statements.send(groups),
      limit: (notification) => statements.limit(notification),
      repeatable: (notification) => statements.repeatable(notification),
      ready: options.ready,
      timeout: options.publishTimeout,
      onBatch: (size, milliseconds) => {
        metrics.batchSize.observe(size)
        metrics.publishSeconds.observe(milliseconds / 1000)
      }
    }
    this.#queue = new BatchQueue(queueOptions)
    this.#large = new BatchQueue(queueOptions)
  }

  /** True when senders should wait (see `onDrain`). */
  get overloaded(): boolean {
    return this.#queue.overloaded
  }

  /** How many bytes wait for the database, or are on their way to it. */
  get queuedBytes(): number {
    return this.#queue.queuedBytes + this.#large.queuedBytes
  }

  /** How many senders are paused. */
  get pausedSenders(): number {
    return this.#queue.pausedSenders
  }

  /** Calls back once, when what waits has shrunk again. */
  onDrain(callback: () => void): void {
    this.#queue.onDrain(callback)
  }

  /**
   * What is notified for a message.
   * @param payload a string, or any other JSON value, or the text of one
   * @param caller as whom it is passed to `onMessageFunction`; undefined: it is not
   * @throws BadMessage for what no PostgreSQL can hold
   */
  notification(channel: string, payload: unknown, sender: Sender, caller: Caller | undefined): Notification {
    const call = this.#messageCall(caller)
    if (!this.#options.rawChannels.has(channel)) {
      return { channel, payload: this.#message(channel, payload, sender), call }
    }
    return { channel, payload: rawPayload(payload), databaseChannel: channel, call }
  }

  /**
   * The same for bytes. All channels keep them as they are but raw channels, which have text only.
   * @throws BadMessage for bytes on a raw channel that are not UTF-8
   */
  binaryNotification(
    channel: string,
    payload: Buffer,
    sender: Sender,
    caller: Caller | undefined
  ): Notification {
    if (this.#options.rawChannels.has(channel)) {
      if (!isUtf8(payload)) throw new errors.BadMessage('a raw channel has text only: send UTF-8')
      return this.notification(channel, payload.toString(), sender, caller)
    }
    const text = binaryEnvelope(channel, payload, sender, this.#options.durable.partial)
    return { channel, payload: text, call: this.#messageCall(caller) }
  }

  /**
   * See BatchQueue.publish; counts what fails, and throws BadMessage for what this database cannot hold. What may not
   * wait and is large is in order with its like only.
   */
  async publish(notifications: readonly Notification[], how: PublishHow = {}): Promise<void> {
    try {
      const queue = how.wait === undefined && isLarge(notifications) ? this.#large : this.#queue
      await queue.publish(notifications, how)
    } catch (failure) {
      const error = asBadMessage(failure)
      const code = codeOf(error) ?? ''
      this.#options.metrics.publishFailures.inc({ reason: code.startsWith('FST_') ? code : 'database' })
      throw error
    }
  }

  /** Tells the meta channel of an event, if there is one. */
  tellMeta(event: string, payload: unknown, sender: Sender | undefined): void {
    const { metaChannel, log, durable } = this.#options
    if (metaChannel === undefined || sender === undefined) return
    const text = withPossibleCharacters(envelope(event, metaChannel, payload, sender, durable.partial))
    const notification = { channel: metaChannel, payload: text }
    this.publish([notification], MAY_WAIT).catch((error) => {
      log.warn({ err: error }, `could not publish ${event} on the meta channel`)
    })
  }

  /**
   * Tells a function of the database's owner that a client has come or gone, in order with its messages. What the
   * database cannot hold of what a client says is replaced: no client can keep the function from being called.
   */
  tellFunction(
    kind: 'connect' | 'disconnect',
    caller: Caller | undefined,
    told: { channels: readonly string[]; connection: string; reason?: string }
  ): void {
    const { onConnectFunction, onDisconnectFunction, log } = this.#options
    const name = kind === 'connect' ? onConnectFunction : onDisconnectFunction
    if (caller === undefined || name === undefined) return
    const payload = withPossibleCharacters(JSON.stringify(told))
    const tell = (replaced: (json: string) => string) => {
      const as = { ...caller, claims: replaced(caller.claims) }
      return this.publish([{ channel: '', payload: replaced(payload), call: { kind, caller: as } }], MAY_WAIT)
    }
    tell((json) => json)
      .catch((error) => {
        if (!(error instanceof errors.BadMessage)) throw error
        // An encoding that has not every character.
        return tell((json) => json.replace(/[\u0080-\u{10ffff}]/gu, '?'))
      })
      .catch((error) => {
        log.warn(
          { err: error, connection: told.connection },
          `${kind === 'connect' ? 'onConnectFunction' : 'onDisconnectFunction'} failed`
        )
      })
  }

  /**
   * Resolves when nothing waits any more, or after a time.
   * @param time milliseconds
   */
  async idle(time: number): Promise<void> {
    await Promise.race([
      Promise.all([this.#queue.idle(), this.#large.idle()]),
      sleep(time, undefined, { ref: false })
    ])
  }

  /** @throws BadMessage for what PostgreSQL's text and jsonb cannot hold */
  #message(channel: string, payload: unknown, sender: Sender): string {
    const text = envelope('WebsocketMessage', channel, payload, sender, this.#options.durable.partial)
    // JSON escapes NUL and lone surrogates, so the text itself would pass; but every reader that casts it to jsonb would
    // fail (https://www.postgresql.org/docs/current/datatype-json.html).
    if (hasImpossibleCharacter(text)) {
      throw new errors.BadMessage('it must not contain a NUL character or a lone surrogate')
    }
    return text
  }

  #messageCall(caller: Caller | undefined): Notification['call'] {
    if (caller === undefined || this.#options.onMessageFunction === undefined) return undefined
    return { kind: 'message', caller }
  }
}

/** Whether notifications take a statement of their own anyway. */
function isLarge(notifications: readonly Notification[]): boolean {
  if (notifications.length > MAX_BATCH) return true
  return notifications.reduce((length, { payload }) => length + payload.length, 0) > MAX_BATCH_BYTES
}

/**
 * What is notified on a raw channel: a string as it is, any other value as JSON.
 * @throws BadMessage for what PostgreSQL's text cannot hold, and for what looks like the server's own words
 */
function rawPayload(payload: unknown): string {
  const value =
    payload instanceof JsonText && payload.text.startsWith('"') ? JSON.parse(payload.text) : payload
  const text = typeof value === 'string' ? value : jsonOf(value)
  if (text.includes('\0') || !text.isWellFormed()) {
    throw new errors.BadMessage('it must not contain a NUL character or a lone surrogate')
  }
  if (isReserved(text)) {
    throw new errors.BadMessage('only the server\'s own messages may have a member "pgws": use another name')
  }
  return text
}
