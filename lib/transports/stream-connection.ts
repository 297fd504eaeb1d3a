import type { ServerResponse } from 'node:http'
import { TLSSocket } from 'node:tls'
import type { Access } from '../auth/index.js'
import type { Frame } from '../channels/index.js'
import { CLOSE, Connection, type ConnectionOptions, hasEnded } from '../clients/index.js'
import { unsentBytesOf } from '../flow/index.js'
import { whenDrained } from './drained.js'

/** A client that reads a streamed HTTP response. */
export abstract class StreamConnection extends Connection {
  /** The code with which it was closed, for the log; 1001 if the client disconnected. */
  closeCode: number = CLOSE.GOING_AWAY
  closeReason = ''
  protected readonly response: ServerResponse

  /** @param response the response to write to; its head has been written */
  constructor(response: ServerResponse, access: Access, options: ConnectionOptions) {
    super(access, options)
    this.response = response
    response.on('close', () => this.ended(this.closeCode, this.closeReason))
  }

  get open(): boolean {
    return !this.response.writableEnded && !hasEnded(this.response)
  }

  get bufferedBytes(): number {
    return this.response.writableLength
  }

  get unsentBytes(): number {
    return unsentBytesOf(this.response.socket)
  }

  get copiedBytes(): number {
    return this.response.socket instanceof TLSSocket ? this.unsentBytes : 0
  }

  protected send(_frames: readonly Frame[], joined: Buffer): void {
    this.response.write(joined)
  }

  drained(): Promise<void> {
    return this.open ? whenDrained(this.response) : Promise.resolve()
  }

  terminate(): void {
    this.response.destroy()
  }
}
