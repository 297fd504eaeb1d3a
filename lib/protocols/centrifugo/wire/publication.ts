import type { Format, Frame } from '../../../channels/index.js'
import { eachMember, membersOf, oneLine, stringIn } from '../../../json-text.js'
import type { Message } from '../../../messages/index.js'
import { textFrame } from '../../../transports/index.js'
import { clientInfo } from './client-info.js'
import { UNSUBSCRIBE } from './protocol.js'

/** A frame after which the subscription is over: the client has to subscribe again. */
export interface SdkFrame extends Frame {
  ends?: true
}

/** The framing of a transport. */
export interface SdkFormat extends Format {
  /** A reply or a push, as the transport has it. */
  wrap(json: string): Buffer
}

/** How replies and pushes look on the transports. */
export const sdkWebSocketFrames = formatOf((json) => textFrame(json))
export const sdkEventStreamFrames = formatOf((json) => Buffer.from(`data: ${json}\n\n`))
export const sdkLineFrames = formatOf((json) => Buffer.from(`${json}\n`))

/** Publications alone, as replies hold them. A word that something is missing has no place there: it ends them. */
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
        // Something is missing that this server cannot replay: the SDK asks anew, and is told so.
        case 'HistoryGap': {
          const json = `{"push":{"channel":${name},"unsubscribe":${JSON.stringify(UNSUBSCRIBE.INSUFFICIENT_STATE)}}}`
          return { bytes: wrap(json), position: undefined, ends: true }
        }
        // How many are in a large channel: the protocol has no word of its own for it.
        case 'Presence':
          return { bytes: wrap(`{"push":{"message":{"data":${message.text}}}}`), position }
        // What the SDK is answered itself.
        default:
          throw new Error(`an SDK has no word for ${serverEvent?.event}`)
      }
    }
  }
}

/**
 * A message as a publication, in one line: `data` is the payload of its envelope as it came, or the text where it has
 * none; `tags.event` its event; `info` who sent it, for messages of clients; `offset` its position, where it is durable.
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

/** Who sent a message. The envelope knows the token's claims, not the connection. */
function senderInfo(claims: string | undefined): string {
  let user = '""'
  let visible = ''
  eachMember(claims ?? '', (name, value, member) => {
    if (name === 'sub') user = value.startsWith('"') ? value : '""'
    if (name !== 'message_delivered_at') visible += visible === '' ? member : `,${member}`
  })
  return `{"user":${user},"client":""${visible === '' ? '' : `,"conn_info":{${visible}}`}}`
}
