import type { Access } from '../../../auth/index.js'
import type { Remote } from '../../../clients/index.js'
import type { SdkConnection } from '../services.js'
import type { SdkFormat } from '../wire/formats.js'
import type { Disconnect } from '../wire/protocol.js'
import type { ConnectResult } from '../wire/replies.js'

/** The transport between a session and its client. */
export interface SdkTransport {
  /** How it frames replies, and in which encoding. */
  readonly format: SdkFormat
  /** The client, as its request describes it. */
  readonly remote: Remote
  /** Additional members of the reply to `connect`. */
  readonly details: Pick<ConnectResult, 'session' | 'node'>
  /** Creates the connection, once the client is identified. */
  attach(access: Access): SdkConnection
  /** Sends a framed reply before there is a connection. */
  send(reply: Buffer): void
  /** Closes the transport. */
  close(disconnect: Disconnect): void
  /** Stops reading commands, and reads them again. */
  pause(): void
  resume(): void
}
