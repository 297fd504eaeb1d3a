import type { Format, Frame } from '../../../channels/index.js'
import type { TransportName } from '../../../clients/index.js'
import { JsonText } from '../../../json-text.js'
import type { Message } from '../../../messages/index.js'
import { binaryFrame, textFrame } from '../../../transports/index.js'
import type { Codec } from './codec.js'
import { json } from './json.js'
import { protobuf } from './protobuf.js'
import { UNSUBSCRIBE } from './protocol.js'
import { clientInfo, type Push, type Reply } from './replies.js'

/** The encodings of the protocol. */
export type Encoding = 'json' | 'protobuf'

/** A frame. If `ends` is set, it ends the subscription, and the client must subscribe again. */
export interface SdkFrame extends Frame {
  ends?: true
}

/** The wire format of a transport: an encoding of the protocol, in the frames of the transport. */
export interface SdkFormat extends Format, Pick<Codec<unknown>, 'commandsIn' | 'isPong'> {
  /** The transport that frames it, and the encoding, as `GET /connections` names them. */
  readonly transport: TransportName
  readonly encoding: Encoding
  readonly ping: Buffer
  /** Encodes and frames a reply. */
  reply(reply: Reply): Buffer
  /** Publications without a push, for replies. A server event has no place there, so it ends them. */
  readonly publications: Format
}

const inJson = formatsOf('json', json)
const inProtobuf = formatsOf('protobuf', protobuf)

/** The wire formats of the transports, in each encoding that they have. */
export const SDK_FORMATS = {
  websocket: { json: inJson('sdk-websocket', textFrame), protobuf: inProtobuf('sdk-websocket', binaryFrame) },
  httpStream: {
    json: inJson('sdk-http-stream', (text) => Buffer.from(`${text}\n`)),
    protobuf: inProtobuf('sdk-http-stream', (bytes) => bytes)
  },
  eventStream: { json: inJson('sdk-sse', (text) => Buffer.from(`data: ${text}\n\n`)) }
} as const

/** The wire formats of an encoding: of each transport that frames it. They share the publications in replies. */
function formatsOf<Encoded>(
  encoding: Encoding,
  codec: Codec<Encoded>
): (transport: TransportName, frame: (encoded: Encoded) => Buffer) => SdkFormat {
  const publications: Format = {
    encode(message: Message): SdkFrame {
      const { position, serverEvent } = message
      if (serverEvent !== undefined) return { bytes: Buffer.alloc(0), position, ends: true }
      return { bytes: codec.withinReply(message), position }
    }
  }
  return (transport, frame) => {
    const framed = (push: Push) => frame(codec.reply({ push }))
    return {
      transport,
      encoding,
      commandsIn: codec.commandsIn,
      isPong: codec.isPong,
      ping: frame(codec.ping),
      reply: (reply) => frame(codec.reply(reply)),
      publications,
      encode(message: Message): SdkFrame {
        const { channel, position, serverEvent } = message
        switch (serverEvent?.event) {
          case undefined:
            return { bytes: frame(codec.publication(message)), position }
          case 'Join':
            return { bytes: framed({ channel, join: { info: clientInfo(serverEvent.payload) } }), position }
          case 'Leave':
            return { bytes: framed({ channel, leave: { info: clientInfo(serverEvent.payload) } }), position }
          // Messages are missing. The SDK subscribes again, and learns that it cannot recover them.
          case 'HistoryGap': {
            const bytes = framed({ channel, unsubscribe: UNSUBSCRIBE.INSUFFICIENT_STATE })
            return { bytes, position: undefined, ends: true }
          }
          // The number of members of a large channel, for which the protocol has no push of its own.
          case 'Presence':
            return { bytes: framed({ message: { data: new JsonText(message.text) } }), position }
          // An SDK gets all others as the answers to its commands.
          default:
            throw new Error(`Centrifugo's protocol has no push for ${serverEvent?.event}`)
        }
      }
    }
  }
}
