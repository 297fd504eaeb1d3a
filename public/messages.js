import { element } from './dom.js'
import { request } from './token.js'

const MAX_SHOWN = 500
/** When the times are read after the first stored message, in milliseconds, so that the others are there, too. */
const TIMES_DELAY = 100

/** A list of messages, which follows the last one while it is in view. */
export class MessageList {
  /** @param textOf returns the text that is shown of a message */
  constructor(list, textOf = payloadText) {
    Object.assign(this, { list, textOf, scroller: list.parentElement, times: new Map(), timesRead: false })
  }

  /** Whether the name of an event says nothing beyond the text. */
  isPlain(event) {
    return event === 'WebsocketMessage' || event === 'Message' || (this.textOf === metaText && /^Connection(Open|Close)$/.test(event))
  }

  clear() {
    this.list.replaceChildren()
    this.times.clear()
  }

  /**
   * Adds a message.
   * @param message its `channel`, `payload`, `event`, the sender's `claims`, the `id` of a stored message, and `raw`, the
   *   text that arrived
   * @param room its channel is not repeated with each message
   */
  show(message, room) {
    const { event, channel, claims, id, raw } = message
    const sender = claims && (claims.name || claims.sub)
    const item = element('li')
    const time = element('time')
    // An SDK does not get the time of a message, and what is notified by hand has none.
    const seconds = claims?.message_delivered_at
    if (!seconds && id) item.dataset.id = id
    if (!seconds && id && room.channel !== '' && !this.timesRead) {
      this.timesRead = true
      setTimeout(() => this.readTimes(room), TIMES_DELAY)
    }
    setTime(time, seconds ? new Date(seconds * 1000) : (this.times.get(id) ?? new Date()))
    const about = [sender, channel !== room.channel && channel, !this.isPlain(event) && event].filter(Boolean)
    const details = element('details')
    const summary = element('summary', '', 'raw')
    summary.setAttribute('aria-label', 'raw text of the message of ' + [time.textContent, sender].filter(Boolean).join(', '))
    details.append(summary, element('pre', '', raw))
    item.append(time)
    if (about.length > 0) item.append(element('span', 'about', about.join(' · ')))
    item.append(element('span', 'payload', this.textOf(message)), details)
    const { list, scroller } = this
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40
    list.append(item)
    while (list.children.length > MAX_SHOWN) list.firstChild.remove()
    if (atEnd) this.toEnd()
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight
  }

  /** To be called when a connection is made: what comes first may have been published long ago. */
  connected() {
    this.timesRead = false
  }

  /** Shows when the stored messages of a room were published, in place of when they arrived. */
  async readTimes({ channel, keeper }) {
    try {
      const path = 'channels/' + encodeURIComponent(channel) + '/history?order=desc&times=true&limit='
      const answer = await request(keeper.token, path + Math.max(50, this.list.children.length))
      if (!answer.ok) return
      const { messages, times } = await answer.json()
      for (const [i, { id }] of messages.entries()) this.times.set(id, new Date(times[i]))
    } catch {
      return
    }
    for (const item of this.list.children) {
      const time = this.times.get(item.dataset.id)
      if (time) setTime(item.querySelector('time'), time)
    }
  }
}

function setTime(element, date) {
  const today = date.toDateString() === new Date().toDateString()
  element.dateTime = date.toISOString()
  element.textContent = today ? date.toLocaleTimeString() : date.toLocaleString()
}

export const payloadText = ({ payload }) => (typeof payload === 'string' ? payload : JSON.stringify(payload, null, 2))

export function metaText(message) {
  // The SDK comes first, and joins channels later.
  if (message.event === 'ConnectionOpen') return message.payload === '' ? 'connected' : 'joined ' + message.payload
  if (message.event === 'ConnectionClose') return message.payload === '' ? 'disconnected' : 'left ' + message.payload
  return payloadText(message)
}
