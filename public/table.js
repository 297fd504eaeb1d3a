// Shows the rows of a table as they come. Over a websocket where that works, else by server-sent events.
import { $, element } from './dom.js'
import { showLinks } from './links.js'
import { EventSourceLanguage, WebSocketLanguage } from './raw-languages.js'
import { request, TokenKeeper } from './token.js'

const CHANNEL = 'table:realtime'
/** Some networks let no websocket through. After this many attempts, server-sent events are used. */
const ATTEMPTS = 2

let parameters, room, language

function state(kind, text) {
  $('state').className = kind
  $('state').textContent = text
}

function show({ event, payload }) {
  if (event !== 'Change' || payload.record === null) return
  const { id, title } = payload.record
  const row = element('tr')
  for (const value of [id, title]) row.append(element('td', '', value ?? ''))
  $('rows').append(row)
  $('empty').hidden = true
}

/** Says what is missing, in the server's words, because a browser is not told why a stream is refused. */
async function check(token) {
  const answer = await request(token, 'channels/' + encodeURIComponent(CHANNEL) + '/history?limit=1').catch(() => undefined)
  if (answer === undefined || answer.ok || answer.status === 429 || answer.status === 503) return undefined
  const { message } = await answer.json().catch(() => ({}))
  return (message ?? 'HTTP status ' + answer.status).replace(/^Error: /, '')
}

async function start() {
  language?.end()
  room?.keeper.stop()
  room = undefined
  $('rows').replaceChildren()
  $('empty').hidden = false
  parameters = new URLSearchParams(location.hash.slice(1))
  const token = parameters.get('token') ?? ''
  showLinks('table.html', parameters)
  if (token === '') return state('closed', 'The token is missing. Open the address that the server prints when it starts, or add #token=… to this one, with a token that may read the channel ' + CHANNEL + '.')
  state('waiting', 'connecting')
  const keeper = new TokenKeeper(token, freshToken)
  // Begins with the oldest message. The channel tracks no presence.
  const own = (room = { channel: CHANNEL, keeper, presence: false, position: { epoch: '', offset: 0 } })
  const problem = keeper.ended ? undefined : await check(token)
  if (room !== own) return
  if (problem) {
    keeper.stop()
    return state('closed', 'refused: ' + problem)
  }
  connect(parameters.get('transport') === 'sse' ? EventSourceLanguage : WebSocketLanguage)
}

function connect(Language) {
  const how = Language === WebSocketLanguage ? 'websocket' : 'server-sent events'
  let attempts = 0
  language = new Language(room, {
    onMessage: show,
    onPeople() {},
    onState(kind, text) {
      state(kind, text.replace(/^connected to [^,]*/, 'connected by ' + how))
      if (kind !== 'waiting' || !text.includes(' in ')) return
      if (room.seen || ++attempts < ATTEMPTS || Language === EventSourceLanguage) return
      language.end()
      connect(EventSourceLanguage)
    }
  })
}

/** Stores a new token, also in the page's address, for a reload. */
function freshToken(token, old) {
  if (parameters.get('token') !== old) return
  parameters.set('token', token)
  history.replaceState(null, '', '#' + parameters)
  showLinks('table.html', parameters)
}

addEventListener('hashchange', start)
start()
