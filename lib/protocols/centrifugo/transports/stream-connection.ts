import type { ServerResponse } from 'node:http'
import type { Access } from '../../../auth/index.js'
import { type ConnectionOptions, mayPing, type TransportName } from '../../../clients/index.js'
import { StreamConnection } from '../../../transports/index.js'
import type { SdkConnection } from '../services.js'
import type { Encoding, SdkFormat } from '../wire/formats.js'
import { DISCONNECT, type Disconnect } from '../wire/protocol.js'
import { disconnectFor, forcedDisconnect } from './connections.js'

/** How long a client may take to read the end of the stream, in milliseconds. */
const END_TIMEOUT = 10_000

/** The connection of an SDK on an HTTP transport. Its commands arrive in separate requests. */
export class SdkStreamConnection extends StreamConnection implements SdkConnection {
  readonly format: SdkFormat
  unanswered = 0
  paused = 0
  readonly #onResume: () => void

  /**
   * @param response the response to write to; its head has been written
   * @param onResume is called when its commands may be processed again
   */
  constructor(
    response: ServerResponse,
    format: SdkFormat,
    access: Access,
    options: ConnectionOptions,
    onResume: () => void
  ) {
    super(response, access, options)
    this.format = format
    this.#onResume = onResume
  }

  get transport(): TransportName {
    return this.format.transport
  }

  override get protocol(): Encoding {
    return this.format.encoding
  }

  ping(): void {
    // While it is paused, its answers to pings are not processed.
    if (!mayPing(this, this.paused !== 0 || this.reading)) {
      const { code, reason } = DISCONNECT.NO_PONG
      this.close(code, reason, 'no-pong')
      return
    }
    const { ping } = this.format
    if (this.open) this.send([{ bytes: ping, position: undefined }], ping)
  }

  pause(reason: number): void {
    this.paused |= reason
  }

  resume(reason: number): void {
    const wasPaused = this.paused !== 0
    this.paused &= ~reason
    if (wasPaused && this.paused === 0) this.#onResume()
  }

  protected sendClose(code: number, reason: string): void {
    if (!this.open) return
    const disconnect = disconnectFor(code, reason)
    this.closeCode = disconnect.code
    this.closeReason = disconnect.reason
    endStream(this.response, this.format, disconnect)
  }

  /** Terminates the connection, because a client that does not read would never see the end. */
  override closeSlow(): void {
    super.closeSlow()
    this.terminate()
  }

  /** Each subscription continues with the stored messages of its own channel. */
  protected override fallBehind(): boolean {
    return false
  }

  override disconnect(code: number, reason: string): void {
    const disconnect = forcedDisconnect(code, reason)
    super.disconnect(disconnect.code, disconnect.reason)
  }
}

/** Ends a stream. A push gives the reason, because a stream has no close codes. */
export function endStream(response: ServerResponse, format: SdkFormat, disconnect: Disconnect): void {
  if (response.writableEnded || response.destroyed) return
  const { code, reason } = disconnect
  response.end(format.reply({ push: { disconnect: { code, reason } } }))
  const late = setTimeout(() => response.destroy(), END_TIMEOUT).unref()
  response.once('close', () => clearTimeout(late))
}
