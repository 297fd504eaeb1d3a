import type { Disconnect } from './protocol.js'

/** The content type by which a client on an HTTP transport announces the protobuf encoding. */
export const PROTOBUF_TYPE = 'application/octet-stream'

/** A field of bytes: its number with wire type 2, the length, the bytes (https://protobuf.dev/programming-guides/encoding). */
function field(number: number, bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from([(number << 3) | 2]), varint(bytes.length), bytes])
}

function varint(value: number): Buffer {
  const bytes: number[] = []
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return Buffer.from([...bytes, rest])
    bytes.push((rest & 0x7f) | 0x80)
  }
}

/**
 * A reply in protobuf that disconnects the client, preceded by its length. The field numbers are those of
 * https://github.com/centrifugal/protocol/blob/master/definitions/client.proto: Reply.push is 4, Push.disconnect 11,
 * Disconnect.code 1 (a varint) and Disconnect.reason 2.
 */
export function protobufDisconnect({ code, reason }: Disconnect): Buffer {
  const disconnect = Buffer.concat([Buffer.from([1 << 3]), varint(code), field(2, Buffer.from(reason))])
  const reply = field(4, field(11, disconnect))
  return Buffer.concat([varint(reply.length), reply])
}
