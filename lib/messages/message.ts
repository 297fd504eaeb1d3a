import type { ServerEvent } from './server-events.js'

/** A message on its way to subscribers. */
export interface Message {
  channel: string
  /** What text clients get. */
  text: string
  /** A durable message's place in the order of all of them. */
  position?: number | undefined
  /** Its id for clients: later messages compare later, as texts. */
  id?: string | undefined
  /** The bytes of a binary message. */
  bytes?: Buffer | undefined
  /** What the server itself has to say: `text` is the same for those who read texts. */
  serverEvent?: ServerEvent | undefined
  /** A raw channel's payload: it is no envelope, whatever it looks like. */
  raw?: true | undefined
}
