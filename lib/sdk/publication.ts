import { textFrame } from '../frame.js'
import type { Format, Frame } from '../hub.js'
import type { Message } from '../message.js'
import { clientInfo } from './presence.js'
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

/** Publications alone, as replies hold them. */
export const sdkPublications: Format = {
  encode: (message) => ({ bytes: Buffer.from(publication(message)), position: message.position })
}

function formatOf(wrap: SdkFormat['wrap']): SdkFormat {
  return {
    wrap,
    encode(message: Message): SdkFrame {
      const { channel, position } = message
      const name = JSON.stringify(channel)
      if (message.presence !== undefined) {
        const { event, member } = message.presence
        const info = JSON.stringify(clientInfo(member))
        return { bytes: wrap(`{"push":{"channel":${name},"${event}":{"info":${info}}}}`), position }
      }
      // Something is missing that this server cannot replay: the SDK asks anew, and is told so.
      if (isHistoryGap(message)) {
        const json = `{"push":{"channel":${name},"unsubscribe":${JSON.stringify(UNSUBSCRIBE.INSUFFICIENT_STATE)}}}`
        return { bytes: wrap(json), position: undefined, ends: true }
      }
      const json = `{"push":{"channel":${name},"pub":${publication(message)}}}`
      return { bytes: wrap(json), position }
    }
  }
}

/**
 * A message as a publication: `data` is the payload of its envelope, or the text where it has none; `tags.event` its
 * event; `info` who sent it, for messages of clients; `offset` its position, where it is durable.
 */
function publication({ channel, text, position }: Message): string {
  const envelope = parseEnvelope(channel, text)
  const offset = position === undefined ? '' : `"offset":${position},`
  if (envelope === undefined) return `{${offset}"data":${JSON.stringify(text)}}`
  const { event, payload, claims, encoding } = envelope
  const tags = { ...(typeof event === 'string' && { event }), ...(encoding === 'base64' && { encoding }) }
  const shown = Object.keys(tags).length === 0 ? '' : `,"tags":${JSON.stringify(tags)}`
  const info = event === 'WebsocketMessage' ? `,"info":${JSON.stringify(infoOf(claims))}` : ''
  return `{${offset}"data":${JSON.stringify(payload)}${shown}${info}}`
}

function parseEnvelope(channel: string, text: string): Record<string, unknown> | undefined {
  if (!text.startsWith('{')) return undefined
  try {
    const value = JSON.parse(text)
    return value.channel === channel && value.payload !== undefined ? value : undefined
  } catch {
    return undefined
  }
}

/** Who sent a message. The envelope knows the token's claims, not the connection. */
function infoOf(claims: unknown): object {
  const { message_delivered_at: _, ...rest } = (claims ?? {}) as Record<string, unknown>
  const user = typeof rest.sub === 'string' ? rest.sub : ''
  return { user, client: '', ...(Object.keys(rest).length > 0 && { conn_info: rest }) }
}

function isHistoryGap({ text, position }: Message): boolean {
  return position === undefined && text.startsWith('{"event":"HistoryGap",')
}
