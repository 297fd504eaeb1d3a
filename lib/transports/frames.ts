import type { Format, Frame } from '../channels/index.js'
import type { Message } from '../messages/index.js'

const TEXT = 0x1
const BINARY = 0x2

/**
 * Messages as whole WebSocket frames from a server: unmasked, FIN, and opcode 1 for text or 2 for binary
 * (RFC 6455, section 5.2).
 */
export const webSocketFrames: Format = {
  encode({ text, bytes, position }: Message): Frame {
    return { bytes: bytes === undefined ? textFrame(text) : binaryFrame(bytes), position }
  }
}

/** Encodes a text as a whole frame. */
export function textFrame(text: string): Buffer {
  const { frame, start } = frameOf(TEXT, Buffer.byteLength(text))
  frame.write(text, start)
  return frame
}

/** Encodes bytes as a whole frame. */
export function binaryFrame(bytes: Uint8Array): Buffer {
  const { frame, start } = frameOf(BINARY, bytes.length)
  frame.set(bytes, start)
  return frame
}

function frameOf(opcode: number, length: number): { frame: Buffer; start: number } {
  const start = headerLength(length)
  const frame = Buffer.allocUnsafe(start + length)
  frame[0] = 0x80 | opcode
  if (length < 126) {
    frame[1] = length
  } else if (length < 65536) {
    frame[1] = 126
    frame.writeUInt16BE(length, 2)
  } else {
    frame[1] = 127
    frame.writeBigUInt64BE(BigInt(length), 2)
  }
  return { frame, start }
}

/** The payload of a frame from webSocketFrames, and whether it is binary. */
export function messageIn({ bytes }: Frame): { data: Buffer; binary: boolean } {
  const length = bytes[1]!
  const start = length < 126 ? 2 : length === 126 ? 4 : 10
  return { data: bytes.subarray(start), binary: (bytes[0]! & 0x0f) === BINARY }
}

function headerLength(length: number): number {
  return length < 126 ? 2 : length < 65536 ? 4 : 10
}
