import type { Message } from './message.js'
import type { HistoryGap, ServerEvent } from './server-events.js'

/**
 * Makes the message of a server event. Its text has the member `pgws`, which no other message may have (see isReserved).
 */
export function serverMessage(channel: string, serverEvent: ServerEvent): Message {
  const { event, payload } = serverEvent
  return { channel, text: JSON.stringify({ pgws: true, event, channel, payload }), serverEvent }
}

/** Makes the server event that says that messages of a channel are missing. */
export function historyGap(channel: string, gap: Partial<HistoryGap> = {}): Message {
  const payload = { requested: null, oldest: null, latest: null, ...gap }
  return serverMessage(channel, { event: 'HistoryGap', payload })
}
