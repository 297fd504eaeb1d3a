import { historyGap, type Message } from '../messages/index.js'

/** One message as it goes over a wire. */
export interface Frame {
  bytes: Buffer
  /** A durable message's place in the order of all of them. */
  position: number | undefined
}

/** What a message looks like on a wire; encodes it once for all subscribers that read this format. */
export interface Format {
  encode(message: Message): Frame
}

/** Told of a message that a format could not encode. */
export type OnUnencodable = (message: Message, error: unknown) => void

/**
 * Encodes a message. Where a format cannot, this is that message's end, and nobody else's.
 * @param onUnencodable told of it
 * @returns for a durable message that cannot be encoded the word that it is missing; for another one undefined
 */
export function encodeSafely(
  format: Format,
  message: Message,
  onUnencodable: OnUnencodable
): Frame | undefined {
  try {
    return format.encode(message)
  } catch (error) {
    onUnencodable(message, error)
    return message.position === undefined ? undefined : format.encode(historyGap(message.channel))
  }
}

/** The bytes of frames in one piece. Those of a single frame are its own, so that many readers share them. */
export function joinFrames(frames: readonly Frame[]): Buffer {
  return frames.length === 1 ? frames[0]!.bytes : Buffer.concat(frames.map(({ bytes }) => bytes))
}
