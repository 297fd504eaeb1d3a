import type { Format, Frame } from '../../../channels/index.js'
import { eachMember, membersOf, oneLine, stringIn } from '../../../json-text.js'
import type { Message } from '../../../messages/index.js'
import { textFrame } from '../../../transports/index.js'
import { clientInfo } from './client-info.js'
import { UNSUBSCRIBE } from './protocol.js'

/** A frame. If `ends` is set, it ends the subscription, and the client must subscribe again. */
export interface SdkFrame extends Frame {
  ends?: true
}

/** The wire format of a transport. */
export interface SdkFormat extends Format {
  /** Frames a reply or a push for the transport. */
  wrap(json: string): Buffer
}

/** The wire formats of the transports. */
export const sdkWebSocketFrames = formatOf((json) => textFrame(json))
export const sdkEventStreamFrames = formatOf((json) => Buffer.from(`data: ${json}\n\n`))
export const sdkLineFrames = formatOf((json) => Buffer.from(`${json}\n`))

/** Publications without a push, for replies. A server event has no place there, so it ends them. */
export const sdkPublications = {
  encode(message: Message): SdkFrame {
    const { position, serverEvent } = message
    if (serverEvent !== undefined) return { bytes: Buffer.alloc(0), position, ends: true }
    return { bytes: Buffer.from(publication(message)), position }
  }
} satisfies Format

function formatOf(wrap: SdkFormat['wrap']): SdkFormat {
  return {
    wrap,
    encode(message: Message): SdkFrame {
      const { channel, position, serverEvent } = message
      const name = JSON.stringify(channel)
      switch (serverEvent?.event) {
        case undefined:
          return { bytes: wrap(`{"push":{"channel":${name},"pub":${publication(message)}}}`), position }
        case 'Join':
        case 'Leave': {
          const { event, payload } = serverEvent
          const info = JSON.stringify(clientInfo(payload))
          const json = `{"push":{"channel":${name},"${event === 'Join' ? 'join' : 'leave'}":{"info":${info}}}}`
          return { bytes: wrap(json), position }
        }
        // Messages are missing. The SDK subscribes again, and learns that it cannot recover them.
        case 'HistoryGap': {
          const json = `{"push":{"channel":${name},"unsubscribe":${JSON.stringify(UNSUBSCRIBE.INSUFFICIENT_STATE)}}}`
          return { bytes: wrap(json), position: undefined, ends: true }
        }
        // The number of members of a large channel, for which the protocol has no push of its own.
        case 'Presence':
          return { bytes: wrap(`{"push":{"message":{"data":${message.text}}}}`), position }
        // An SDK gets all others as the answers to its commands.
        default:
          throw new Error(`Centrifugo's protocol has no push for ${serverEvent?.event}`)
      }
    }
  }
}

/**
 * Encodes a message as a publication, in one line. `data` is the text of the envelope's payload, or the whole text if
 * there is no envelope. `tags.event` is its event, `info` the sender of a client's message, and `offset` the position of a
 * durable message.
 */
function publication({ channel, text, position, raw }: Message): string {
  const envelope = raw ? undefined : membersOf(text)
  const offset = position === undefined ? '' : `"offset":${position},`
  const payload = envelope?.get('payload')
  if (payload === undefined || stringIn(envelope, 'channel') !== channel) {
    return `{${offset}"data":${JSON.stringify(text)}}`
  }
  const event = stringIn(envelope, 'event')
  let tags = event === undefined ? '' : `"event":${envelope!.get('event')}`
  if (stringIn(envelope, 'encoding') === 'base64') tags += `${tags === '' ? '' : ','}"encoding":"base64"`
  const tagsMember = tags === '' ? '' : `,"tags":{${tags}}`
  const info = event === 'WebsocketMessage' ? `,"info":${senderInfo(envelope!.get('claims'))}` : ''
  return oneLine(`{${offset}"data":${payload}${tagsMember}${info}}`)
}

/** The sender of a message. The envelope has the claims of its token, but not its connection. */
function senderInfo(claims: string | undefined): string {
  let user = '""'
  let visible = ''
  eachMember(claims ?? '', (name, value, member) => {
    if (name === 'sub') user = value.startsWith('"') ? value : '""'
    if (name !== 'message_delivered_at') visible += visible === '' ? member : `,${member}`
  })
  return `{"user":${user},"client":""${visible === '' ? '' : `,"conn_info":{${visible}}`}}`
}
