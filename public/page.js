import { showCommands } from './commands.js'
import { $ } from './dom.js'
import { showLinks } from './links.js'
import { MessageList, metaText } from './messages.js'
import { listenToName, showName } from './name.js'
import { changePeople, forgetPeople } from './people.js'
import { EventSourceLanguage, WebSocketLanguage } from './raw-languages.js'
import { SdkLanguage } from './sdk-language.js'
import { base, claimsOf, TokenKeeper } from './token.js'

const LANGUAGES = { sdk: SdkLanguage, websocket: WebSocketLanguage, sse: EventSourceLanguage }
/** The maximum size of a notification, with its envelope, in bytes (https://www.postgresql.org/docs/current/sql-notify.html). */
const MAX_NOTIFICATION = 7999

const messages = new MessageList($('messages'))
const metaMessages = new MessageList($('meta-messages'), metaText)

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
  hint(kind === 'connected' && !writable ? 'This token may only read ("mode": "r").' : '')
  $('leave').disabled = room === undefined
  if (kind === 'connected') messages.connected()
  else forgetPeople('Not known while disconnected.', room)
}

function hint(text) {
  $('message-hint').textContent = text
}

function join() {
  leave()
  const token = $('token').value.trim()
  showName(token)
  if (token === '') return setState('closed', 'The token is missing. Open the address that the server prints when it starts, or enter a token below.')
  room = { channel: $('channel').value, keeper: new TokenKeeper(token, freshToken) }
  messages.clear()
  metaMessages.clear()
  showLifetime(token)
  if ($('meta').value !== '') {
    const metaRoom = { channel: $('meta').value, keeper: room.keeper, presence: false }
    meta = new WebSocketLanguage(metaRoom, {
      onMessage: (message) => metaMessages.show(message, metaRoom),
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
  room.client = undefined
  let language = document.querySelector('[name=language]:checked').value
  const instead = language === 'sdk' && room.channel === ''
  if (instead) language = 'websocket'
  $('language-hint').textContent = instead
    ? 'The SDK subscribes to channels by name. A raw websocket is used to join all channels of the token.'
    : language === 'sse' ? 'Server-sent events are one-way. Your messages are sent with POST /publish. Browsers allow six event streams to a server over HTTP/1.1, so windows of the same person share one.' : ''
  main = new LANGUAGES[language](room, {
    onState: setState,
    onMessage: (message) => messages.show(message, room),
    onPeople: (change) => changePeople(change, room)
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
  const parameters = readParameters()
  if (parameters.get('token') === old) {
    parameters.set('token', token)
    history.replaceState(null, '', '#' + parameters)
  }
  showLifetime(token)
  showCommands()
  showLinks('./', readParameters())
}

let limits
/** The largest message that the server takes, and whether it stores messages. Empty while it does not say. */
async function readLimits() {
  limits ??= fetch(base + 'health').then((answer) => answer.json())
  try {
    return await limits
  } catch {
    limits = undefined
    return {}
  }
}

/** Why a message would be refused because of its size, and some would end the connection; undefined if it would not. */
async function sizeProblem(text) {
  const { maxMessageBytes = Infinity, schema } = await readLimits()
  const bytes = new TextEncoder().encode(main.textOf(text)).length
  if (bytes > maxMessageBytes) return 'it has ' + bytes.toLocaleString() + ' bytes, and the server takes ' + maxMessageBytes.toLocaleString() + ' at most.'
  if (schema?.status !== 'missing') return undefined
  const { channel, keeper } = room
  const envelope = JSON.stringify({ event: 'WebsocketMessage', channel, payload: text, claims: { ...claimsOf(keeper.token), message_delivered_at: 1602719440.727465 } })
  const size = new TextEncoder().encode(envelope).length
  return size > MAX_NOTIFICATION
    ? 'with its envelope it has ' + size.toLocaleString() + ' bytes, and a notification takes ' + MAX_NOTIFICATION.toLocaleString() + ' at most, because durable channels are not installed.'
    : undefined
}

async function send() {
  const text = $('message').value
  if (text === '' || $('send').disabled) return
  $('message').value = ''
  $('message').focus()
  // The message is on its way: it appears at the end of the list.
  messages.toEnd()
  try {
    const problem = await sizeProblem(text)
    if (problem) throw new Error(problem)
    await main.send(text)
    hint('')
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
  showLinks('./', values)
  join()
}

$('join-form').addEventListener('submit', (event) => { event.preventDefault(); join() })
$('leave').addEventListener('click', leave)
$('send-form').addEventListener('submit', (event) => { event.preventDefault(); send() })
$('message').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); send() }
})
for (const language of Object.keys(LANGUAGES)) $('language-' + language).addEventListener('change', speak)
listenToName(() => room?.keeper.token ?? $('token').value.trim(), (token) => {
  const parameters = readParameters()
  parameters.set('token', token)
  history.replaceState(null, '', '#' + parameters)
  $('token').value = token
  showCommands()
  showLinks('./', parameters)
  join()
})
addEventListener('hashchange', readFragment)
readFragment()
