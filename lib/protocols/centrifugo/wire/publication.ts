import { eachMember, membersOf, stringIn } from '../../../json-text.js'
import type { Message } from '../../../messages/index.js'

/** The parts of a publication, as JSON texts. */
export interface Publication {
  /** The text of the envelope's payload; the whole text, as a JSON string, if there is no envelope. */
  data: string
  /** The event of the envelope, for `tags.event`. */
  event?: string | undefined
  /** The bytes of a binary message. `data` is the same in base64. */
  bytes?: Buffer | undefined
  /** The sender, of a client's message. */
  sender?: PublicationSender | undefined
}

/** The sender of a message. The envelope has the claims of its token, but not its connection. */
export interface PublicationSender {
  /** The claim `sub`; an empty string without it. */
  user: string
  /** An object of the claims that others see; undefined if there are none. */
  claims: string | undefined
}

/** Finds the parts of a message. */
export function publicationOf({ channel, text, raw, bytes }: Message): Publication {
  const envelope = raw ? undefined : membersOf(text)
  const payload = envelope?.get('payload')
  if (payload === undefined || stringIn(envelope, 'channel') !== channel)
    return { data: JSON.stringify(text) }
  const event = stringIn(envelope, 'event')
  return {
    data: payload,
    event: event === undefined ? undefined : envelope!.get('event'),
    bytes: stringIn(envelope, 'encoding') === 'base64' ? bytes : undefined,
    sender: event === 'WebsocketMessage' ? senderIn(envelope!.get('claims')) : undefined
  }
}

function senderIn(claims: string | undefined): PublicationSender {
  let user = '""'
  let visible = ''
  eachMember(claims ?? '', (name, value, member) => {
    if (name === 'sub') user = value.startsWith('"') ? value : '""'
    if (name !== 'message_delivered_at') visible += visible === '' ? member : `,${member}`
  })
  return { user, claims: visible === '' ? undefined : `{${visible}}` }
}
