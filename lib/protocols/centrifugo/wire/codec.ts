import type { Message } from '../../../messages/index.js'
import type { Incoming } from './protocol.js'
import type { Reply } from './replies.js'

/**
 * An encoding of the protocol: JSON or protobuf. Both have the same content. Sessions and subscriptions do not depend on the
 * encoding.
 * @typeParam Encoded what the transports frame: a text or bytes
 */
export interface Codec<Encoded> {
  /**
   * Decodes the commands in data from a client, one at a time. It never throws, but yields an error for data that is not a
   * command. In protobuf, nothing after such data can be read.
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
