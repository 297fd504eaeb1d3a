import type { Access } from '../../../auth/index.js'
import type { SdkConnection } from '../services.js'
import type { Disconnect } from '../wire/protocol.js'

/** How a session reaches its client. */
export interface SdkTransport {
  /** Its client's IP address. */
  readonly address: string
  /** What the reply to `connect` says beside. */
  readonly details: object
  /** Makes a connection of it. */
  attach(access: Access): SdkConnection
  /** Sends a reply before there is a connection. */
  send(json: string): void
  /** Ends it. */
  close(disconnect: Disconnect): void
  /** Stops to read commands, and reads them again. */
  pause(): void
  resume(): void
}
