import type { ServerResponse } from 'node:http'
import type { Access } from '../../auth/index.js'
import type { Format, Frame } from '../../channels/index.js'
import { CLOSE, type ConnectionOptions, type TransportName } from '../../clients/index.js'
import type { Message } from '../../messages/index.js'
import { StreamConnection } from '../../transports/index.js'

/**
 * Messages as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream).
 * Text has no `event:` line, so that `onmessage` receives it. Bytes are sent as base64 in an event `Bytes`.
 */
export const eventStreamFrames: Format = {
  encode({ text, bytes, id, position }: Message): Frame {
    const data =
      bytes === undefined
        ? `data: ${text.replace(/\r\n|\r|\n/g, '\ndata: ')}`
        : `event: Bytes\ndata: ${bytes.toString('base64')}`
    return { bytes: Buffer.from(`${id === undefined ? '' : `id: ${id}\n`}${data}\n\n`), position }
  }
}

/** A comment, which keeps proxies from closing the connection. */
const HEARTBEAT = ':\n\n'

/** For how long a client may take nothing of what waits for it, in milliseconds; as long as a websocket may not answer. */
const MAX_STALLED = 60_000

/** How long a client may take to read the end of the stream, in milliseconds. */
const END_TIMEOUT = 10_000

/** A client that reads server-sent events; it cannot write. */
export class EventStream extends StreamConnection {
  readonly format = eventStreamFrames

  /** @param response its head has been written */
  constructor(response: ServerResponse, access: Access, options: ConnectionOptions) {
    super(response, { ...access, write: false }, options)
  }

  get transport(): TransportName {
    return 'event-stream'
  }

  /** A stream has no answers to pings. One that takes nothing of what waits for it, for as long as others may, is ended. */
  ping(): void {
    if (!this.open) return
    if (this.bufferedBytes === 0) this.response.write(HEARTBEAT)
    else if (this.stalledFor >= MAX_STALLED) this.closeStalled()
  }

  protected sendClose(code: number, reason: string): void {
    if (!this.open) return
    this.closeCode = code
    this.closeReason = reason
    this.response.end()
    const late = setTimeout(() => this.terminate(), END_TIMEOUT).unref()
    this.response.once('close', () => clearTimeout(late))
  }

  override expire(): void {
    if (this.open) this.response.write('event: Expired\ndata: JWT expired\n\n')
    super.expire()
  }

  override revoke(): void {
    if (!this.open) return
    this.closing('token-revoked')
    this.disconnect(CLOSE.TOKEN_REVOKED, 'token revoked')
  }

  /** Terminates the connection, because a client that does not read would never see the end. */
  override closeSlow(): void {
    super.closeSlow()
    this.terminate()
  }

  /** Sends the code and the reason as an event, because a stream has no close codes and browsers reconnect on their own. */
  override disconnect(code: number, reason: string): void {
    this.response.write(`event: Disconnected\ndata: ${JSON.stringify({ code, reason })}\n\n`)
    super.disconnect(code, reason)
  }
}
