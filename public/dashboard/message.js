import { h } from './dom.js'
import { time } from './format.js'

/** A message as the server writes it: an envelope, or the text of a raw channel. */
export function messageItem(message) {
  const { payload, claims, event, id, encoding } = message
  const at = claims?.message_delivered_at
  const text = encoding === 'base64' ? 'binary: ' + payload : typeof payload === 'string' ? payload : JSON.stringify(payload, null, 2)
  return h('li', {},
    h('div', { class: 'payload' }, text),
    h('div', { class: 'soft small' },
      at && h('span', {}, time(at * 1000)), claims?.sub !== undefined && h('span', {}, String(claims.sub)),
      event && event !== 'WebsocketMessage' && h('span', {}, String(event)), id && h('span', { class: 'mono' }, String(id))))
}
