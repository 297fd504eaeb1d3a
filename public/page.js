'use strict'
const $ = (id) => document.getElementById(id)
const base = location.pathname.replace(/[^/]*$/, '')
const MAX_SHOWN = 500
const NORMAL_LISTEN_CHANNEL = 'postgres-websockets-listener'
let listenChannel = NORMAL_LISTEN_CHANNEL

/** The claims of a token, for display only: the server decides. */
function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0))
    return JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    return {}
  }
}

/** One websocket that comes back by itself, with growing, jittered pauses. */
class Connection {
  constructor({ address, onMessage, onState }) {
    Object.assign(this, { address, onMessage, onState, failures: 0, ended: false })
    this.wake = () => { if (this.timer) { clearTimeout(this.timer); this.open() } }
    addEventListener('online', this.wake)
    this.open()
  }
  open() {
    this.timer = undefined
    this.onState('waiting', this.failures ? 'reconnecting' : 'connecting')
    let opened = false
    const socket = (this.socket = new WebSocket(this.address))
    socket.onopen = () => { opened = true; this.failures = 0; this.onState('connected', 'connected') }
    socket.onmessage = ({ data }) => this.onMessage(data)
    socket.onclose = async ({ code, reason }) => {
      if (this.ended) return
      if (code === 3001) return this.onState('closed', 'closed: the token has expired, get a new one')
      if (!opened && (await serverAnswers())) {
        if (this.ended) return
        return this.onState('closed', 'closed: refused, the token does not allow this channel')
      }
      if (this.ended) return
      const pause = Math.min(500 * 2 ** this.failures++, 15000) * (0.5 + Math.random() / 2)
      const why = reason || (opened ? 'code ' + code : 'no answer')
      this.onState('waiting', 'reconnecting in ' + (pause / 1000).toFixed(1) + ' s (' + why + ')')
      this.timer = setTimeout(() => this.open(), pause)
    }
  }
  end() {
    this.ended = true
    clearTimeout(this.timer)
    removeEventListener('online', this.wake)
    this.socket.close()
  }
}

async function serverAnswers() {
  try {
    return (await fetch(base + 'health/live')).ok
  } catch {
    return false
  }
}

function address(channel, token) {
  const path = channel === '' ? '' : encodeURIComponent(channel) + '/'
  return (location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host + base + path + token
}

function element(name, className, text) {
  const node = document.createElement(name)
  if (className) node.className = className
  if (text !== undefined) node.textContent = text
  return node
}

function show(list, data, describe) {
  let message
  try { message = JSON.parse(data) } catch {}
  const envelope = message !== null && typeof message === 'object' ? message : {}
  const { event, channel, claims } = envelope
  const item = element('li')
  item.append(element('div', 'payload', describe(envelope, data)))
  const about = element('div', 'about')
  const seconds = claims && claims.message_delivered_at
  const time = seconds ? new Date(seconds * 1000) : new Date()
  for (const part of [time.toLocaleTimeString(), channel, event, claims && (claims.name || claims.sub)]) {
    if (part !== undefined && part !== null) about.append(element('span', '', String(part)))
  }
  item.append(about)
  const details = element('details')
  details.append(element('summary', '', 'raw'), element('pre', '', data))
  item.append(details)
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40
  list.append(item)
  while (list.children.length > MAX_SHOWN) list.firstChild.remove()
  if (atEnd) list.scrollTop = list.scrollHeight
}

const payloadText = ({ payload }, data) =>
  payload === undefined ? data : typeof payload === 'string' ? payload : JSON.stringify(payload, null, 2)
const metaText = (envelope, data) => {
  if (envelope.event === 'ConnectionOpen') return 'joined ' + envelope.payload
  if (envelope.event === 'ConnectionClose') return 'left ' + envelope.payload
  return payloadText(envelope, data)
}

const sqlText = (text) => "'" + text.replace(/'/g, "''") + "'"
/** In sh, double quotes leave single ones alone, and so are easier to read around SQL. */
const shellText = (text) => /["$`\\!]/.test(text) ? "'" + text.replace(/'/g, "'\\''") + "'" : '"' + text + '"'

function showCommands() {
  const channel = $('channel').value
  const sql = 'select pg_notify(' + sqlText(listenChannel) + ", json_build_object('event', 'WebsocketMessage', 'channel', " + sqlText(channel) + ", 'payload', 'Hello from SQL')::text)"
  $('sql').textContent = sql + ';'
  $('npm').textContent = 'npm run sql -- ' + shellText(sql)
  $('curl').textContent = 'curl -X POST ' + location.origin + base + "publish -H 'Content-Type: application/json' -H 'Authorization: Bearer " + $('token').value.trim() + "' -d " + shellText(JSON.stringify({ channel, payload: 'Hello from curl' }))
}

let main, meta

function leave() {
  if (main) main.end()
  if (meta) meta.end()
  main = meta = undefined
  setState('', 'not connected')
}

function setState(kind, text) {
  $('state').className = kind
  $('state').textContent = text
  const writable = /w/.test(claimsOf($('token').value).mode || '')
  $('message').disabled = $('send').disabled = kind !== 'connected' || !writable
  $('message-hint').textContent = kind === 'connected' && !writable
    ? 'This token may only read ("mode": "r").'
    : 'Enter sends, Shift + Enter begins a new line.'
  $('leave').disabled = main === undefined
}

function join() {
  leave()
  const token = $('token').value.trim()
  const channel = $('channel').value
  const metaChannel = $('meta').value
  if (token === '') return
  $('messages').replaceChildren()
  $('meta-messages').replaceChildren()
  if (metaChannel !== '') {
    meta = new Connection({
      address: address(metaChannel, token),
      onMessage: (data) => show($('meta-messages'), data, metaText),
      onState() {}
    })
  }
  const own = new Connection({
    address: address(channel, token),
    onMessage: (data) => show($('messages'), data, payloadText),
    onState: (kind, text) => setState(kind, kind === 'connected' ? 'connected to ' + (channel || 'all channels of the token') : text)
  })
  main = own
  $('leave').disabled = false
}

function send() {
  const text = $('message').value
  if (text === '' || $('send').disabled) return
  main.socket.send(text)
  $('message').value = ''
  $('message').focus()
}

function readFragment() {
  const fragment = location.hash.slice(1)
  const values = fragment.includes('=') ? new URLSearchParams(fragment) : new URLSearchParams({ token: fragment })
  $('token').value = values.get('token') || ''
  $('channel').value = values.has('channel') ? values.get('channel') : 'chat'
  $('meta').value = values.get('meta') || ''
  listenChannel = values.get('listen') || NORMAL_LISTEN_CHANNEL
  const { exp } = claimsOf($('token').value)
  if (exp) $('token-hint').textContent = 'This token is valid until ' + new Date(exp * 1000).toLocaleString() + '.'
  showCommands()
  join()
}

$('join-form').addEventListener('submit', (event) => { event.preventDefault(); join() })
$('leave').addEventListener('click', leave)
$('send-form').addEventListener('submit', (event) => { event.preventDefault(); send() })
$('message').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); send() }
})
for (const id of ['channel', 'token']) $(id).addEventListener('input', showCommands)
for (const button of document.querySelectorAll('[data-copy]')) {
  button.addEventListener('click', async () => {
    const target = $(button.dataset.copy)
    try {
      await navigator.clipboard.writeText(target.textContent)
      button.textContent = 'Copied'
      setTimeout(() => { button.textContent = 'Copy' }, 1500)
    } catch {
      // Without a secure context there is no clipboard; Ctrl+C copies what is selected.
      getSelection().selectAllChildren(target)
    }
  })
}
addEventListener('hashchange', readFragment)
readFragment()
