import type { Centrifuge } from 'centrifuge'

/** The part of the SDK's codec that has bytes of applications. */
interface Codec {
  encodeCommands(commands: Record<string, { data?: unknown }>[]): Uint8Array
  decodeReplies(data: unknown): object[]
}

/**
 * An SDK that speaks protobuf, for an application with JSON: what it publishes is encoded, what it receives is decoded.
 * So the tests of the SDK that speaks JSON run with it unchanged.
 */
export function jsonOverProtobuf(Sdk: unknown): typeof Centrifuge {
  const Base = Sdk as new (...args: unknown[]) => { _codec: Codec; _formatOverride(): void }
  class JsonOverProtobuf extends Base {
    override _formatOverride(): void {
      super._formatOverride()
      const codec = this._codec
      const { encodeCommands, decodeReplies } = codec
      codec.encodeCommands = (commands) => encodeCommands.call(codec, commands.map(withBytes))
      codec.decodeReplies = (data) => {
        const replies = decodeReplies.call(codec, data)
        for (const reply of replies) readBytes(reply)
        return replies
      }
    }
  }
  return JsonOverProtobuf as never
}

function withBytes(command: Record<string, { data?: unknown }>): Record<string, { data?: unknown }> {
  const encoded = Object.entries(command).map(([name, params]) => [
    name,
    params?.data === undefined ? params : { ...params, data: Buffer.from(JSON.stringify(params.data)) }
  ])
  return Object.fromEntries(encoded)
}

/** Replaces the bytes in a reply, however deep, by the JSON values that they are. */
function readBytes(part: object): void {
  for (const [name, value] of Object.entries(part)) {
    if (value instanceof Uint8Array) {
      Object.assign(part, { [name]: JSON.parse(Buffer.from(value).toString()) })
    } else if (typeof value === 'object' && value !== null) readBytes(value)
  }
}
