import type { Message } from '../../../messages/index.js'
import type { Incoming } from './protocol.js'
import type { Reply } from './replies.js'

/**
 * An encoding of the protocol. There are two, JSON and protobuf, which say the same; sessions and subscriptions know
 * neither.
 * @typeParam Encoded what the transports frame: a text or bytes
 */
export interface Codec<Encoded> {
  /**
   * The commands in what a client has sent, decoded one at a time. It never throws: what is no command is an error, and
   * nothing that follows it in protobuf can be read.
   */
  commandsIn(data: Buffer): Iterator<Incoming>
  /** Whether this is the answer to a ping, and nothing else. */
  isPong(data: Buffer): boolean
  /** A ping: a reply without content. */
  readonly ping: Encoded
  reply(reply: Reply): Encoded
  /** The push of a message. */
  publication(message: Message): Encoded
  /** A message as one of the publications in a reply. */
  withinReply(message: Message): Buffer
}
