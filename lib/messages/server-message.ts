import type { Message } from './message.js'
import type { HistoryGap, ServerEvent } from './server-events.js'

/**
 * A message of the server itself. On the wires that carry texts it has the member `pgws`, which no other message has
 * there (see isReserved).
 */
export function serverMessage(channel: string, serverEvent: ServerEvent): Message {
  const { event, payload } = serverEvent
  return { channel, text: JSON.stringify({ pgws: true, event, channel, payload }), serverEvent }
}

/** A message of the server itself: something of a channel is missing. */
export function historyGap(channel: string, gap: Partial<HistoryGap> = {}): Message {
  const payload = { requested: null, oldest: null, latest: null, ...gap }
  return serverMessage(channel, { event: 'HistoryGap', payload })
}
