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
  /** How long notifications that may wait do so for an unavailable database, in milliseconds. */
  publishTimeout: number
  /** The servers of the bus; undefined without one. */
  bus: readonly string[] | undefined
  notifySql: boolean
  query: Query
  /** Whether this server listens, and has read the retention rules. */
  ready: () => boolean
  durable: RetentionRules
  rawChannels: RawChannels
  metrics: Metrics
  log: Log
}

/** Sends everything that this server publishes to the database, in order: messages, and calls for connecting clients. */
export class Publisher {
  readonly #options: PublisherOptions
  readonly #queue: BatchQueue
  /** Large requests, one after the other, so that other messages do not wait for them. */
  readonly #large: BatchQueue

  constructor(options: PublisherOptions) {
    this.#options = options
    const { metrics } = options
    const statements = new Statements({
      ...options,
      byBus: options.bus !== undefined,
      functionCalls: new FunctionCalls(options)
    })
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

  /** Whether senders should wait (see `onDrain`). */
  get overloaded(): boolean {
    return this.#queue.overloaded
  }

  /** How many bytes wait for the database or are being sent to it. */
  get queuedBytes(): number {
    return this.#queue.queuedBytes + this.#large.queuedBytes
  }

  /** How many senders are paused. */
  get pausedSenders(): number {
    return this.#queue.pausedSenders
  }

  /** Calls back once, when the queue has shrunk. */
  onDrain(callback: () => void): void {
    this.#queue.onDrain(callback)
  }

  /**
   * Makes the notification of a message.
   * @param payload a string or any other JSON value, or the text of one
   * @param caller the identity with which `onMessageFunction` is called; undefined: it is not called
   * @throws BadMessage if PostgreSQL cannot store the payload
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
   * Publishes notifications: all or none. Counts failures. Large requests that must not wait are in order only with each
   * other.
   * @throws BadMessage if this database cannot store the payload; the errors of `BatchQueue.publish`
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

  /** Publishes an event on the meta channel, if there is one. */
  publishMetaEvent(event: string, payload: unknown, sender: Sender | undefined): void {
    const { metaChannel, log, durable } = this.#options
    if (metaChannel === undefined || sender === undefined) return
    const text = withPossibleCharacters(envelope(event, metaChannel, payload, sender, durable.partial))
    const notification = { channel: metaChannel, payload: text }
    this.publish([notification], MAY_WAIT).catch((error) => {
      log.warn({ err: error }, `could not publish ${event} on the meta channel`)
    })
  }

  /**
   * Calls `onConnectFunction` or `onDisconnectFunction`, in order with the client's messages. Characters that the database
   * cannot store are replaced, so that no client can prevent the call.
   */
  callConnectionFunction(
    kind: 'connect' | 'disconnect',
    caller: Caller | undefined,
    details: { channels: readonly string[]; connection: string; reason?: string }
  ): void {
    const { onConnectFunction, onDisconnectFunction, log } = this.#options
    const name = kind === 'connect' ? onConnectFunction : onDisconnectFunction
    if (caller === undefined || name === undefined) return
    const payload = withPossibleCharacters(JSON.stringify(details))
    const call = (replaced: (json: string) => string) => {
      const as = { ...caller, claims: replaced(caller.claims) }
      return this.publish([{ channel: '', payload: replaced(payload), call: { kind, caller: as } }], MAY_WAIT)
    }
    call((json) => json)
      .catch((error) => {
        if (!(error instanceof errors.BadMessage)) throw error
        // The database's encoding does not have every character.
        return call((json) => json.replace(/[\u0080-\u{10ffff}]/gu, '?'))
      })
      .catch((error) => {
        log.warn(
          { err: error, connection: details.connection },
          `${kind === 'connect' ? 'onConnectFunction' : 'onDisconnectFunction'} failed`
        )
      })
  }

  /**
   * Resolves when everything has been sent, or after a time.
   * @param time milliseconds
   */
  async idle(time: number): Promise<void> {
    await Promise.race([
      Promise.all([this.#queue.idle(), this.#large.idle()]),
      sleep(time, undefined, { ref: false })
    ])
  }

  /** @throws BadMessage for characters that PostgreSQL's text and jsonb cannot store */
  #message(channel: string, payload: unknown, sender: Sender): string {
    const text = envelope('WebsocketMessage', channel, payload, sender, this.#options.durable.partial)
    // JSON escapes NUL and lone surrogates, so PostgreSQL would accept the text. But every reader that casts it to jsonb
    // would fail (https://www.postgresql.org/docs/current/datatype-json.html).
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

/** Whether notifications fill a statement of their own. */
function isLarge(notifications: readonly Notification[]): boolean {
  if (notifications.length > MAX_BATCH) return true
  return notifications.reduce((length, { payload }) => length + payload.length, 0) > MAX_BATCH_BYTES
}

/**
 * The payload of a notification on a raw channel: a string unchanged, any other value as JSON.
 * @throws BadMessage for characters that PostgreSQL's text cannot store, and for texts that look like server messages
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
