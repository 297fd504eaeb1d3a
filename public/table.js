'use strict'
// Shows the rows of a table as they come. Over a websocket where that works, else by server-sent events.
const $ = (id) => document.getElementById(id)
const base = location.pathname.replace(/[^/]*$/, '')
const parameters = new URLSearchParams(location.hash.slice(1))
const path = base + encodeURIComponent('table:realtime') + '/' + encodeURIComponent(parameters.get('token') ?? '')
/** The last message that was shown: what comes after it is asked for when the connection is back. */
let last = 'earliest'
let failures = 0
let useEvents = !('WebSocket' in window) || parameters.get('transport') === 'sse'

function show(text) {
  const message = JSON.parse(text)
  if (message.id) last = message.id
  if (message.event !== 'Change' || message.payload.record === null) return
  const { id, title } = message.payload.record
  const row = document.createElement('tr')
  for (const value of [id, title]) row.append(Object.assign(document.createElement('td'), { textContent: value }))
  $('rows').append(row)
  $('empty').hidden = true
}

function state(kind, text) {
  $('state').className = kind
  $('state').textContent = text
}

function connect() {
  const address = path + '?since=' + encodeURIComponent(last)
  let opened = false
  const onopen = (how) => {
    opened = true
    failures = 0
    state('connected', 'connected by ' + how)
  }
  const again = () => {
    failures++
    // Some networks let no websocket through.
    if (!opened && failures >= 2) useEvents = true
    state('waiting', 'reconnecting')
    setTimeout(connect, Math.min(250 * 2 ** failures, 10000) * (0.5 + Math.random() / 2))
  }
  if (useEvents) {
    const events = new EventSource(address)
    events.onopen = () => onopen('server-sent events')
    events.onmessage = ({ data }) => show(data)
    // We come back ourselves, with the last id.
    events.onerror = () => {
      events.close()
      again()
    }
  } else {
    const socket = new WebSocket((location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host + address)
    socket.onopen = () => onopen('websocket')
    socket.onmessage = ({ data }) => show(data)
    socket.onclose = again
  }
}

connect()
