import { encodeSafely, type Format, type Frame, type OnUnencodable } from '../channels/index.js'
import type { Message } from '../messages/index.js'

/** A message that was read; encoded once for all who replay it. */
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
      // A durable message has a frame in any case.
      frame = encodeSafely(format, this.message, this.#onUnencodable)!
      this.#frames.set(format, frame)
    }
    return frame
  }
}
