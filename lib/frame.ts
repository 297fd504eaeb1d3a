import type { Format } from './hub.js'

/**
 * Text messages as whole WebSocket frames from a server: unmasked, FIN and opcode 1
 * (RFC 6455, section 5.2).
 */
export const textFrames: Format = {
  encode(message) {
    const length = Buffer.byteLength(message)
    const start = headerLength(length)
    const frame = Buffer.allocUnsafe(start + length)
    frame[0] = 0x81
    if (length < 126) {
      frame[1] = length
    } else if (length < 65536) {
      frame[1] = 126
      frame.writeUInt16BE(length, 2)
    } else {
      frame[1] = 127
      frame.writeBigUInt64BE(BigInt(length), 2)
    }
    frame.write(message, start)
    return frame
  }
}

/** The message within a frame that textFrames made. */
export function messageIn(frame: Buffer): Buffer {
  const length = frame[1]!
  return frame.subarray(length < 126 ? 2 : length === 126 ? 4 : 10)
}

function headerLength(length: number): number {
  return length < 126 ? 2 : length < 65536 ? 4 : 10
}
