import { EventSourceLanguage, SdkLanguage, WebSocketLanguage } from './languages.js'
import { base, claimsOf, namesIn, TokenKeeper } from './token.js'

const $ = (id) => document.getElementById(id)
const MAX_SHOWN = 500
const LANGUAGES = { sdk: SdkLanguage, websocket: WebSocketLanguage, sse: EventSourceLanguage }

function element(name, className, text) {
  const node = document.createElement(name)
  if (className) node.className = className
  if (text !== undefined) node.textContent = text
  return node
}

/** @param message its channel, payload, event, the sender's claims, and `raw`, the text that arrived */
function show(list, message, describe = payloadText) {
  const { event, channel, claims, raw } = message
  const item = element('li')
  item.append(element('div', 'payload', describe(message)))
  const about = element('div', 'about')
  const seconds = claims && claims.message_delivered_at
  const time = seconds ? new Date(seconds * 1000) : new Date()
  for (const part of [time.toLocaleTimeString(), channel, event, claims && (claims.name || claims.sub)]) {
    if (part !== undefined && part !== null) about.append(element('span', '', String(part)))
  }
  item.append(about)
  const details = element('details')
  details.append(element('summary', '', 'raw'), element('pre', '', raw))
  item.append(details)
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40
  list.append(item)
  while (list.children.length > MAX_SHOWN) list.firstChild.remove()
  if (atEnd) list.scrollTop = list.scrollHeight
}

const payloadText = ({ payload }) => (typeof payload === 'string' ? payload : JSON.stringify(payload, null, 2))
const metaText = (message) => {
  // The SDK comes first, and joins channels later.
  if (message.event === 'ConnectionOpen') return message.payload === '' ? 'connected' : 'joined ' + message.payload
  if (message.event === 'ConnectionClose') return message.payload === '' ? 'disconnected' : 'left ' + message.payload
  return payloadText(message)
}

/** The members, by channel and client; undefined if the channel does not track presence. */
let people

/** @param change all `clients` of a channel, or the one that `joined` or `left`; without any, the members are not known */
function changePeople({ channel, clients, joined, left }) {
  if (channel === undefined) people = undefined
  else people ??= new Map()
  const keyOf = ({ client }) => channel + ' ' + client
  if (clients) {
    for (const [key, one] of people) if (one.channel === channel) people.delete(key)
    for (const one of clients) people.set(keyOf(one), { ...one, channel })
  }
  if (joined) people.set(keyOf(joined), { ...joined, channel })
  if (left) people.delete(keyOf(left))
  showPeople()
}

function showPeople(empty = 'Not known: this channel does not track presence.') {
  $('people').dataset.empty = empty
  $('people-count').textContent = people ? String(people.size) : ''
  $('people').replaceChildren(...[...(people?.values() ?? [])].map(({ client, user, channel }) => {
    const item = element('li')
    item.append(element('span', '', user || client))
    const about = [room.channel === '' && channel, user && client, client === room.client && '(this window)'].filter(Boolean).join(' ')
    if (about) item.append(element('span', 'soft', about))
    return item
  }))
}

const sqlText = (text) => "'" + text.replace(/'/g, "''") + "'"
/** In sh, double quotes leave single ones alone, and so are easier to read around SQL. */
const shellText = (text) => /["$`\\!]/.test(text) ? "'" + text.replace(/'/g, "'\\''") + "'" : '"' + text + '"'

function showCommands() {
  const token = $('token').value.trim()
  const channel = $('channel').value || namesIn(token)[0] || 'chat'
  const sql = 'select pgws.publish_text(' + sqlText(channel) + ", 'Hello from SQL')"
  $('sql').textContent = sql + ';'
  $('npm').textContent = 'npm run sql -- ' + shellText(sql)
  $('curl').textContent = 'curl -X POST ' + location.origin + base + "publish -H 'Content-Type: application/json' -H 'Authorization: Bearer " + token + "' -d " + shellText(JSON.stringify({ channel, payload: 'Hello from curl' }))
}

/** The room that was joined: its channel, its token, and the position of the last message. */
let room
let main, meta

function leave() {
  main?.end()
  meta?.end()
  room?.keeper.stop()
  main = meta = room = undefined
  setState('', 'not connected')
}

function setState(kind, text) {
  $('state').className = kind
  $('state').textContent = text
  const writable = /w/.test(claimsOf(room?.keeper.token).mode || '')
  $('message').disabled = $('send').disabled = kind !== 'connected' || !writable
  hint(kind === 'connected' && !writable ? 'This token may only read ("mode": "r").' : 'Press Enter to send, Shift + Enter for a new line.')
  $('leave').disabled = room === undefined
  if (kind === 'connected') return
  people = undefined
  showPeople('Not known while disconnected.')
}

function hint(text) {
  $('message-hint').textContent = text
}

function join() {
  leave()
  const token = $('token').value.trim()
  if (token === '') return
  room = { channel: $('channel').value, keeper: new TokenKeeper(token, freshToken) }
  $('messages').replaceChildren()
  $('meta-messages').replaceChildren()
  showLifetime(token)
  if ($('meta').value !== '') {
    meta = new WebSocketLanguage({ channel: $('meta').value, keeper: room.keeper, presence: false }, {
      onMessage: (message) => show($('meta-messages'), message, metaText),
      onPeople() {},
      onState() {}
    })
  }
  speak()
}

/** Connects with the chosen protocol, and resumes where the last one ended. The messages on the page stay. */
function speak() {
  if (room === undefined) return
  main?.end()
  people = room.client = undefined
  let language = document.querySelector('[name=language]:checked').value
  const instead = language === 'sdk' && room.channel === ''
  if (instead) language = 'websocket'
  $('language-hint').textContent = instead
    ? 'The SDK subscribes to channels by name. A raw websocket is used to join all channels of the token.'
    : language === 'sse' ? 'Server-sent events are one-way. Your messages are sent with POST /publish.' : ''
  main = new LANGUAGES[language](room, {
    onState: setState,
    onMessage: (message) => show($('messages'), message),
    onPeople: changePeople
  })
}

function showLifetime(token) {
  const { exp } = claimsOf(token)
  $('token-hint').textContent = exp
    ? 'This token is valid until ' + new Date(exp * 1000).toLocaleString() + '.'
    : 'A JSON Web Token with a "mode" of r, w or rw.'
}

/** Stores a new token, also in the page's address, for a reload. */
function freshToken(token, old) {
  if ($('token').value.trim() === old) $('token').value = token
  const fragment = readParameters()
  if (fragment.get('token') === old) {
    fragment.set('token', token)
    history.replaceState(null, '', '#' + fragment)
  }
  showLifetime(token)
  showCommands()
}

async function send() {
  const text = $('message').value
  if (text === '' || $('send').disabled) return
  $('message').value = ''
  $('message').focus()
  try {
    await main.send(text)
  } catch ({ message }) {
    hint('Not sent: ' + message)
    if ($('message').value === '') $('message').value = text
  }
}

function readParameters() {
  const fragment = location.hash.slice(1)
  return fragment.includes('=') ? new URLSearchParams(fragment) : new URLSearchParams({ token: fragment })
}

function readFragment() {
  const values = readParameters()
  $('token').value = values.get('token') || ''
  $('channel').value = values.has('channel') ? values.get('channel') : 'chat'
  $('meta').value = values.get('meta') || ''
  const transport = values.get('transport')
  if (transport in LANGUAGES) $('language-' + transport).checked = true
  showCommands()
  join()
}

$('join-form').addEventListener('submit', (event) => { event.preventDefault(); join() })
$('leave').addEventListener('click', leave)
$('send-form').addEventListener('submit', (event) => { event.preventDefault(); send() })
$('message').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); send() }
})
for (const language of Object.keys(LANGUAGES)) $('language-' + language).addEventListener('change', speak)
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
