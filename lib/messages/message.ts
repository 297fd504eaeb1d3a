import type { ServerEvent } from './server-events.js'

/** A message on its way to subscribers. */
export interface Message {
  channel: string
  /** The text that clients receive. */
  text: string
  /** The position of a durable message in the order of all of them. */
  position?: number | undefined
  /** Its id for clients. As strings, the ids of later messages compare greater. */
  id?: string | undefined
  /** When a listed message was published, in ISO 8601. */
  time?: string | undefined
  /** The bytes of a binary message. */
  bytes?: Buffer | undefined
  /** A server event. `text` has the same content for clients that read text. */
  serverEvent?: ServerEvent | undefined
  /** Set for the payload of a raw channel, which is not an envelope, whatever it looks like. */
  raw?: true | undefined
}
