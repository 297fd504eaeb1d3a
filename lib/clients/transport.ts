import type { ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'

/** What ends with its client: the socket of an upgrade, or the answer to a request, which has a socket. */
export type Transport = Duplex | ServerResponse

/** Whether the client has gone, or has been answered. */
export function isGone(transport: Transport): boolean {
  if (transport.destroyed || transport.closed) return true
  // An answer over HTTP/2 ends with its stream; its socket is that of all streams.
  const { stream } = transport as { stream?: { destroyed: boolean } }
  return stream?.destroyed === true
}

/** Calls back when the client has gone or has been answered, also where that was before. */
export function whenGone(transport: Transport, callback: (() => void) | undefined): void {
  if (callback === undefined) return
  if (isGone(transport)) callback()
  else transport.once('close', callback)
}
