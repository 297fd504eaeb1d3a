import { confirmWith } from './dialog.js'
import { alertOf, field, fill, h, outcome, select, setText, title } from './dom.js'
import { bytes, count, counted, cut, NONE, time } from './format.js'
import { addressOf, remember } from './routes.js'
import { PAGE, Pages, settled, tableOf } from './table.js'

const TRANSPORTS = ['websocket', 'event-stream', 'sdk-websocket', 'sdk-sse', 'sdk-http-stream']
const FILTERS = [['subject', 'Subject'], ['channel', 'Channel'], ['address', 'Address']]
const MAX_LISTED = 5

/** The open connections of all nodes. */
export function connections({ api, parameters }) {
  const inputs = new Map(FILTERS.map(([name]) => [name, h('input', { type: 'search', name, value: parameters.get(name) ?? '', autocomplete: 'off', spellcheck: 'false' })]))
  const transport = select([['', 'any'], ...TRANSPORTS.map((name) => [name, name])], parameters.get('transport') ?? '', () => restart())
  const filter = () => ({ ...Object.fromEntries([...inputs].map(([name, { value }]) => [name, value])), transport: transport.value })
  const isEmpty = () => Object.values(filter()).every((value) => value === '')
  const restart = () => {
    remember('connections', filter())
    everyone.disabled = isEmpty()
    pages.restart()
  }
  const later = settled(restart)
  for (const input of inputs.values()) input.addEventListener('input', later)

  const done = outcome()
  const failed = h('div')
  const everyone = h('button', { type: 'button', class: 'danger', disabled: isEmpty(), onclick: () => disconnectAll() }, 'Disconnect all that match …')

  async function disconnectAll() {
    fill(failed)
    const wanted = filter()
    try {
      const { closed } = await api.json('connections', { method: 'DELETE', query: { ...wanted, dryRun: true } })
      if (closed === 0) return setText(done, 'No connection matches.')
      const described = Object.entries(wanted).filter(([, value]) => value !== '').map(([name, value]) => `${name} is “${value}”`).join(' and ')
      await disconnect({
        heading: `Disconnect ${counted(closed, 'connection')}?`,
        text: `This closes ${counted(closed, 'connection')} on all nodes whose ${described}. Their tokens stay valid, so clients may reconnect.`,
        action: `Disconnect ${count(closed)}`,
        path: 'connections',
        query: wanted
      })
    } catch (error) {
      fill(failed, alertOf(error))
    }
  }

  async function disconnect({ heading, text, action, path, query = {} }) {
    const reason = h('input', { value: 'disconnected', maxlength: 123, autocomplete: 'off' })
    const answer = await confirmWith({
      heading,
      body: [h('p', {}, text), field('Reason that clients get', reason)],
      action,
      run: () => api.json(path, { method: 'DELETE', query: { ...query, reason: reason.value } })
    })
    if (answer === undefined) return
    const missing = answer.missing?.length > 0 ? ` Nodes that did not answer: ${answer.missing.join(', ')}.` : ''
    setText(done, `Disconnected ${counted(answer.closed, 'connection')}.${missing}`)
    // The button that was pressed is gone with its row.
    done.focus()
    pages.refresh()
  }

  const one = ({ id, subject, address }) => disconnect({
    heading: 'Disconnect 1 connection?',
    text: `This closes the connection ${id} of ${subject ?? 'a client without a subject'}, from ${address}. Its token stays valid, so the client may reconnect.`,
    action: 'Disconnect 1',
    path: 'connections/' + encodeURIComponent(id)
  })

  const pages = new Pages({
    one: 'connection',
    empty: 'No connection matches.',
    table: tableOf('Connections', columns(one)),
    load: (after) => api.page('connections', { scope: 'cluster', ...filter(), limit: PAGE, after })
  })
  const element = h('div', {},
    title('Connections'),
    h('form', { class: 'filters', onsubmit: (event) => { event.preventDefault(); restart() } },
      FILTERS.map(([name, label]) => field(label, inputs.get(name))),
      field('Transport', transport),
      everyone),
    done, failed, pages.element)
  pages.refresh()
  return { element, close: () => pages.close() }
}

function columns(disconnect) {
  return [
    { label: 'Subject', class: 'name', cell: ({ subject }) => subject ?? h('span', { class: 'soft' }, 'none') },
    { label: 'Channels', class: 'name', cell: ({ channels }) => channelLinks(channels) },
    {
      label: 'Client', class: 'client',
      cell: ({ transport, protocol, address, userAgent }) => [
        h('span', { class: 'nowrap' }, (transport ?? NONE) + (protocol === 'protobuf' ? ' (protobuf)' : '')), h('br'),
        h('span', { class: 'mono' }, address), userAgent && h('div', { class: 'soft small', title: userAgent }, cut(userAgent, 60))
      ]
    },
    { label: 'Mode', cell: ({ mode }) => mode },
    {
      label: 'Since (token until)',
      cell: ({ since, expiresAt }) => [h('time', { datetime: since }, time(since)), expiresAt !== undefined && [h('br'), h('span', { class: 'soft' }, expiresAt === null ? 'does not expire' : time(expiresAt))]]
    },
    { label: 'Received', class: 'number', known: ({ receivedMessages }) => receivedMessages !== undefined, cell: ({ receivedMessages }) => count(receivedMessages) },
    { label: 'Sent', class: 'number', known: ({ sentMessages }) => sentMessages !== undefined, cell: ({ sentMessages, sentBytes }) => [count(sentMessages), h('br'), h('span', { class: 'soft' }, bytes(sentBytes))] },
    { label: 'Waiting', class: 'number', cell: ({ bufferedBytes }) => bytes(bufferedBytes) },
    { label: 'Node', class: 'nowrap', cell: ({ node }) => h('span', { class: 'mono', title: node }, node.slice(0, 8)) },
    {
      label: 'Actions', class: 'actions',
      cell: (connection) => [
        h('button', { type: 'button', 'aria-label': `Disconnect ${connection.subject ?? 'the client'}, connection ${connection.id}`, onclick: () => disconnect(connection) }, 'Disconnect'),
        connection.subject && h('a', { href: addressOf('revocations', { sub: connection.subject }), 'aria-label': 'Revoke the tokens of ' + connection.subject }, 'Revoke')
      ]
    }
  ]
}

function channelLinks(channels) {
  const links = channels.slice(0, MAX_LISTED).flatMap((channel, index) => [index > 0 && ', ', h('a', { href: addressOf('channel', { name: channel }) }, channel)])
  return channels.length > MAX_LISTED ? [links, ` and ${count(channels.length - MAX_LISTED)} more`] : links
}
