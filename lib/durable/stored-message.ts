import {
  encodeSafely,
  type Format,
  type Frame,
  type LossReason,
  type OnUnencodable
} from '../channels/index.js'
import { type Message, storedMessage } from '../messages/index.js'
import type { RetentionRules } from './retention-rules.js'

/** A message that was read from the database. It is encoded once for all clients to which it is replayed. */
export class StoredMessage {
  readonly message: Message
  readonly position: number
  readonly #frames = new Map<Format, Frame>()
  readonly #onUnencodable: OnUnencodable

  constructor(message: Message, onUnencodable: OnUnencodable) {
    this.message = message
    this.position = message.position!
    this.#onUnencodable = onUnencodable
  }

  frame(format: Format): Frame {
    let frame = this.#frames.get(format)
    if (frame === undefined) {
      // encodeSafely() always returns a frame for a durable message.
      frame = encodeSafely(format, this.message, this.#onUnencodable)!
      this.#frames.set(format, frame)
    }
    return frame
  }
}

/** A row of `pgws.messages`. */
export interface MessageRow {
  position: number
  channel: string
  body: string
}

/** Makes messages of the rows of `pgws.messages`. */
export class StoredMessages {
  readonly #durable: Pick<RetentionRules, 'epoch'>
  readonly #onLost: (reason: LossReason, fields: object) => void

  /** @param onLost is called for rows that are not messages, and for messages that a format cannot encode */
  constructor(durable: Pick<RetentionRules, 'epoch'>, onLost: (reason: LossReason, fields: object) => void) {
    this.#durable = durable
    this.#onLost = onLost
  }

  of(row: MessageRow): StoredMessage {
    const onUnencodable: OnUnencodable = (_, error) =>
      this.#onLost('unencodable', { err: error, position: row.position })
    return new StoredMessage(this.message(row), onUnencodable)
  }

  message({ position, channel, body }: MessageRow): Message {
    const message = storedMessage(this.#durable.epoch, position, channel, body)
    if (message.serverEvent !== undefined) this.#onLost('malformed', { position })
    return message
  }
}
