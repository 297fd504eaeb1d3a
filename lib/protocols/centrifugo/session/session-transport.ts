import type { Access } from '../../../auth/index.js'
import type { SdkConnection } from '../services.js'
import type { Disconnect } from '../wire/protocol.js'

/** The transport between a session and its client. */
export interface SdkTransport {
  /** The client's IP address. */
  readonly address: string
  /** Additional members of the reply to `connect`. */
  readonly details: object
  /** Creates the connection, once the client is identified. */
  attach(access: Access): SdkConnection
  /** Sends a reply before there is a connection. */
  send(json: string): void
  /** Closes the transport. */
  close(disconnect: Disconnect): void
  /** Stops reading commands, and reads them again. */
  pause(): void
  resume(): void
}
