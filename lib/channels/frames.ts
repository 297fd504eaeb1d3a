import { historyGap, type Message } from '../messages/index.js'

/** A message as it is sent to clients. */
export interface Frame {
  bytes: Buffer
  /** The position of a durable message; undefined for any other. */
  position: number | undefined
}

/** A wire format. A message is encoded once for all subscribers with the same format. */
export interface Format {
  encode(message: Message): Frame
}

/** Is called for a message that a format could not encode. */
export type OnUnencodable = (message: Message, error: unknown) => void

/**
 * Encodes a message. If that fails, only this message is lost.
 * @param onUnencodable is called if it fails
 * @returns if it fails, a `HistoryGap` for a durable message, and undefined for any other
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

/** The bytes of frames in one buffer. For a single frame it is the frame's own buffer, which its readers share. */
export function joinFrames(frames: readonly Frame[]): Buffer {
  return frames.length === 1 ? frames[0]!.bytes : Buffer.concat(frames.map(({ bytes }) => bytes))
}
