import { eventsOf } from './api.js'
import { h, setText, status } from './dom.js'
import { messageItem } from './message.js'

const MAX_SHOWN = 200

/** The messages of a channel as they come, by server-sent events. */
export function follow(api, name) {
  const list = h('ol')
  const box = h('div', { class: 'messages live', role: 'log', 'aria-label': 'Messages as they come', tabindex: 0 }, list)
  const told = status()
  let abort
  let last
  let timer
  const button = h('button', { type: 'button', onclick: () => (abort ? stop() : start()) }, 'Stop')

  function show({ type, data, id }) {
    if (id) last = id
    // Closed by an administrator, or the token has ended.
    if (type === 'Disconnected' || type === 'Expired') {
      stop()
      return setText(told, type === 'Expired' ? 'Ended: the token has expired.' : 'Ended: disconnected by an administrator.')
    }
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40
    list.append(messageItem(readMessage(type, data)))
    while (list.children.length > MAX_SHOWN) list.firstChild.remove()
    if (atEnd) box.scrollTop = box.scrollHeight
  }

  async function start() {
    const mine = (abort = new AbortController())
    setText(button, 'Stop')
    setText(told, 'Connecting …')
    try {
      const answer = await api.request('', {
        query: { channel: name, since: last },
        accept: 'text/event-stream',
        signal: mine.signal
      })
      setText(told, 'Following. New messages appear here.')
      for await (const event of eventsOf(answer)) {
        if (abort !== mine) return
        show(event)
      }
      if (abort !== mine) return
      setText(told, 'Reconnecting …')
      timer = setTimeout(start, 1000)
    } catch (error) {
      if (abort !== mine) return
      if (error.status >= 400 && error.status < 500) {
        stop()
        return setText(told, error.message)
      }
      setText(told, 'Reconnecting …')
      timer = setTimeout(start, 2000)
    }
  }

  function stop() {
    clearTimeout(timer)
    const old = abort
    abort = undefined
    old?.abort()
    setText(button, 'Follow')
    setText(told, 'Stopped.')
  }

  start()
  return { element: h('section', { class: 'panel' }, h('div', { class: 'title' }, h('h2', {}, 'Live'), button), told, box), close: stop, following: () => abort !== undefined }
}

function readMessage(type, data) {
  if (type === 'Bytes') return { payload: data, encoding: 'base64' }
  try {
    const message = JSON.parse(data)
    if (message !== null && typeof message === 'object' && 'payload' in message) return message
  } catch {}
  // A raw channel.
  return { payload: data }
}
