import { encodeSafely, type Format, type Frame, type OnUnencodable } from '../channels/index.js'
import type { Message } from '../messages/index.js'

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
