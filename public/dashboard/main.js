import { Api, base } from './api.js'
import { channel } from './channel.js'
import { channels } from './channels.js'
import { connections } from './connections.js'
import { fill, h, setText } from './dom.js'
import { events } from './events.js'
import { Live } from './live.js'
import { overview } from './overview.js'
import { revocations } from './revocations.js'
import { readRoute } from './routes.js'
import { rules } from './rules.js'
import { forget, keep, readToken, signIn } from './session.js'

const VIEWS = new Map([
  ['overview', { text: 'Overview', open: overview }],
  ['channels', { text: 'Channels', open: channels }],
  ['connections', { text: 'Connections', open: connections }],
  ['events', { text: 'Events', open: events }],
  ['rules', { text: 'Rules', open: rules }],
  ['revocations', { text: 'Revocations', open: revocations }],
  ['channel', { text: 'Channel', open: channel, below: 'channels' }]
])
const STATES = { connecting: ['waiting', 'connecting'], live: ['connected', 'live'], waiting: ['waiting', 'reconnecting'] }

const $ = (id) => document.getElementById(id)
/** The view that is open, and what the session has. */
let view
let session

/** Links to the other pages of this server, as far as it has them. */
async function showAbout() {
  try {
    const { version, links } = await (await fetch(base + 'dashboard/about.json')).json()
    setText($('version'), version)
    fill($('elsewhere'), links.map(({ href, text }) => h('a', { href: base + href }, text)))
  } catch {}
}

function open({ focus }) {
  if (session === undefined) return
  const { view: name, parameters } = readRoute()
  const found = VIEWS.has(name) ? name : 'overview'
  const { text, open, below = found } = VIEWS.get(found)
  view?.close()
  view = open({ ...session, parameters })
  fill($('main'), view.element)
  document.title = (found === 'channel' ? parameters.get('name') : text) + ' – Dashboard'
  for (const link of $('views').querySelectorAll('a')) {
    if (link.dataset.view === below) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  if (!focus) return
  // As after a page is loaded: the keyboard and screen readers begin at the top of the content.
  scrollTo(0, 0)
  $('main').focus({ preventScroll: true })
}

function enter(token) {
  keep(token)
  const api = new Api(token, leave)
  const live = new Live(api)
  const showState = () => {
    const [kind, text] = STATES[live.state]
    $('state').className = 'state ' + kind
    setText($('state'), text)
  }
  live.addEventListener('state', showState)
  session = { api, live }
  showState()
  $('views').hidden = $('sign-out').hidden = false
  open({ focus: false })
}

/** Ends the session. @param error why the server refused the token */
function leave(error) {
  session?.live.stop()
  view?.close()
  session = view = undefined
  forget()
  $('views').hidden = $('sign-out').hidden = true
  $('state').className = 'state'
  setText($('state'), '')
  document.title = 'Dashboard – fastify-pg-websockets'
  fill($('main'), signIn(enter, error))
  $('main').querySelector('input').focus()
}

fill($('views'), [...VIEWS].filter(([, { below }]) => below === undefined).map(([name, { text }]) => h('a', { href: '#/' + name, 'data-view': name }, text)))
$('sign-out').addEventListener('click', () => leave())
addEventListener('hashchange', () => {
  // Another printed address in the same tab.
  if (location.hash.startsWith('#token=')) {
    session?.live.stop()
    return enter(readToken())
  }
  open({ focus: true })
})
$('skip').addEventListener('click', (event) => {
  // The fragment of the address names the view.
  event.preventDefault()
  $('main').focus()
})
showAbout()
const token = readToken()
if (token === undefined) leave()
else enter(token)
