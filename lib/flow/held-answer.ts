import type { ServerResponse } from 'node:http'
import { type FlowControl, type Receiver, unsentBytesOf, type Waiting } from './flow-control.js'

/** A large answer to an HTTP request, which is in memory until its client has read it. */
export class HeldAnswer implements Receiver {
  readonly writtenBytes: number
  readonly copiedBytes = 0
  waiting: Waiting | undefined
  readonly #response: ServerResponse

  /**
   * Registers an answer with flow control before it is sent.
   * @param bytes the answer's body
   */
  constructor(response: ServerResponse, bytes: Buffer, flow: FlowControl) {
    this.#response = response
    this.writtenBytes = bytes.length
    if (response.destroyed) return
    flow.wrote(this, bytes)
    response.once('close', () => flow.forget(this))
  }

  get open(): boolean {
    return !this.#response.destroyed
  }

  get bufferedBytes(): number {
    const { headersSent, writableLength } = this.#response
    return headersSent ? writableLength : this.writtenBytes
  }

  get unsentBytes(): number {
    return unsentBytesOf(this.#response.socket)
  }

  closeSlow(): void {
    this.terminate()
  }

  terminate(): void {
    this.#response.destroy()
  }
}
