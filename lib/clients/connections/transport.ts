import type { ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'

/** What a client is connected with, as `GET /connections` and the metrics name it. */
export const TRANSPORTS = [
  'websocket',
  'event-stream',
  'sdk-websocket',
  'sdk-sse',
  'sdk-http-stream'
] as const
export type TransportName = (typeof TRANSPORTS)[number]

export function isTransport(value: unknown): value is TransportName {
  return TRANSPORTS.some((name) => name === value)
}

/** What carries a connection: the socket of an upgrade, or the response to a request, which has a stream over HTTP/2. */
export type Transport = (Duplex | ServerResponse) & { stream?: { destroyed: boolean } }

/** Whether the transport has ended. */
export function hasEnded(transport: Transport): boolean {
  if (transport.destroyed || transport.closed) return true
  // A response over HTTP/2 ends with its stream. Its socket is shared by all streams.
  return transport.stream?.destroyed === true
}

/** Calls back when the transport ends, or at once if it has ended already. */
export function whenEnded(transport: Transport, callback: (() => void) | undefined): void {
  if (callback === undefined) return
  if (hasEnded(transport)) callback()
  else transport.once('close', callback)
}
