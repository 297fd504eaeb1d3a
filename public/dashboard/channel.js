import { flagsOf } from './channels.js'
import { alertOf, field, fill, h, setText, status, title } from './dom.js'
import { follow } from './follow.js'
import { count, counted, rate } from './format.js'
import { messageItem } from './message.js'
import { addressOf } from './routes.js'

/** How many stored messages a page of the history has, and how many members are shown. */
const PAGE = 20
const MAX_MEMBERS = 100

/** One channel: its figures, its messages as they come, the stored ones, who is present, and a form to publish. */
export function channel({ api, parameters }) {
  const name = parameters.get('name') ?? ''
  const path = 'channels/' + encodeURIComponent(name)
  const figures = h('div', { class: 'figures' })
  const messages = follow(api, name)
  const history = historyOf(api, path)
  const members = membersOf(api, path)
  const element = h('div', {},
    title(name, h('span', { class: 'grow' }), h('a', { href: addressOf('connections', { channel: name }) }, 'Its connections')),
    figures,
    h('div', { class: 'columns' },
      h('div', {}, messages.element, publishing(api, name, messages)),
      h('div', {}, members.element, history.element)))
  history.load()
  figuresOf(api, name, figures).then((known) => {
    if (known === undefined || known.presence) members.load()
    else members.tell('This channel does not track presence.')
  })
  return { element, close: () => messages.close() }
}

/** Shows the figures of a channel. Resolves with them, or with undefined if they are not known. */
async function figuresOf(api, name, place) {
  try {
    const [channel] = await api.json('channels', { query: { scope: 'cluster', channel: name } })
    if (channel === undefined) return void fill(place, h('span', { class: 'soft' }, 'No client has joined this channel.'))
    fill(place, flagsOf(channel), h('span', {}, `${counted(channel.connections, 'connection')}: ${counted(channel.readers, 'reader')}, ${counted(channel.writers, 'writer')}`), h('span', { class: 'soft' }, rate(channel.rate) + ' delivered'))
    return channel
  } catch (error) {
    fill(place, alertOf(error))
  }
}

/** The stored messages, the newest first. */
function historyOf(api, path) {
  const list = h('ol', { 'aria-label': 'Stored messages' })
  const told = status()
  let before
  const older = h('button', { type: 'button', hidden: true, onclick: () => load() }, 'Older messages')
  async function load() {
    try {
      const { messages, next } = await api.json(path + '/history', { query: { order: 'desc', limit: PAGE, before } })
      before = next
      list.append(...messages.map((message) => messageItem(message)))
      older.hidden = next === undefined
      setText(told, list.children.length === 0 ? 'No message is stored.' : '')
    } catch (error) {
      setText(told, error.message)
    }
  }
  const again = () => {
    before = undefined
    list.replaceChildren()
    return load()
  }
  return { element: h('section', { class: 'panel' }, h('div', { class: 'title' }, h('h2', {}, 'History'), h('button', { type: 'button', onclick: again, 'aria-label': 'Refresh the history' }, 'Refresh')), told, h('div', { class: 'messages', role: 'region', 'aria-label': 'Stored messages', tabindex: 0 }, list), older), load }
}

/** Who is present. */
function membersOf(api, path) {
  const list = h('ul', { class: 'members' })
  const told = status()
  async function load() {
    try {
      const { clients = [], count: present, users } = await api.json(path + '/presence')
      fill(list, clients.slice(0, MAX_MEMBERS).map(({ client, user }) => h('li', {}, h('b', {}, user === '' ? 'no name' : user), ' ', h('span', { class: 'mono soft small' }, client))))
      const rest = present - Math.min(clients.length, MAX_MEMBERS)
      setText(told, `${counted(present, 'client')}, ${counted(users, 'user')}${rest > 0 ? `; ${count(rest)} of them are not shown` : ''}`)
    } catch (error) {
      fill(list)
      setText(told, error.message)
    }
  }
  return { element: h('section', { class: 'panel' }, h('div', { class: 'title' }, h('h2', {}, 'Present'), h('button', { type: 'button', onclick: load, 'aria-label': 'Refresh who is present' }, 'Refresh')), told, list), load, tell: (text) => setText(told, text) }
}

/** A form that publishes to the channel, and says who got it. */
function publishing(api, name, messages) {
  const radio = (value, checked) => h('input', { type: 'radio', name: 'kind', value, checked })
  const [text, json] = [radio('text', true), radio('json', false)]
  const payload = h('textarea', { rows: 3, required: true, spellcheck: 'false' })
  const as = h('input', { autocomplete: 'off', spellcheck: 'false' })
  const told = status()
  const failed = h('div')
  const button = h('button', { class: 'primary' }, 'Publish')
  async function publish(event) {
    event.preventDefault()
    fill(failed)
    setText(told, '')
    button.disabled = true
    const written = payload.value
    try {
      const body = JSON.stringify({ channel: name, ...(as.value !== '' && { as: as.value }), confirm: true })
      // As it was written, because JavaScript would round large numbers.
      const value = json.checked ? checkedJson(written) : JSON.stringify(written)
      const { delivered, nodes, missing = [] } = await api.json('publish', { method: 'POST', body: body.slice(0, -1) + ',"payload":' + value + '}' })
      setText(told, `Received by ${counted(delivered, 'client')}${messages.following() ? ', this page included' : ''}, on ${counted(nodes, 'node')}.${missing.length > 0 ? ` Nodes that did not answer: ${missing.join(', ')}.` : ''}`)
      // What was written while the answer was on its way is the next message.
      if (payload.value === written) payload.value = ''
    } catch (error) {
      fill(failed, alertOf(error))
    } finally {
      button.disabled = false
      payload.focus()
    }
  }
  return h('section', { class: 'panel' }, h('h2', {}, 'Publish'),
    h('form', { onsubmit: publish },
      h('fieldset', { class: 'switch' }, h('legend', {}, 'Payload as'), h('label', { class: 'check' }, text, 'text'), h('label', { class: 'check' }, json, 'JSON')),
      field('Payload', payload),
      field('As (the sub of the sender)', as, 'Empty: the claims of your own token.'),
      h('div', { class: 'bar' }, button, told), failed))
}

/** @throws Error if the text is not JSON */
function checkedJson(text) {
  try {
    JSON.parse(text)
  } catch (error) {
    throw new Error('This is not JSON: ' + error.message)
  }
  return text
}
