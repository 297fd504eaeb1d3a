import { badge, field, h, select, title } from './dom.js'
import { count, rate } from './format.js'
import { addressOf, remember } from './routes.js'
import { PAGE, Pages, settled, tableOf } from './table.js'

const SORTS = [['channel', 'name'], ['readers', 'readers'], ['rate', 'messages delivered']]
const FLAGS = ['durable', 'presence', 'raw']
/** How long rates must be measured before there are any, in milliseconds. */
const MEASURED = 2500

/** The flags of a channel, as marks. */
export const flagsOf = (channel) => FLAGS.filter((flag) => channel[flag]).map((flag) => badge('plain', flag))

/** The channels that clients have joined, on all nodes. */
export function channels({ api, parameters }) {
  const search = h('input', { type: 'search', value: parameters.get('search') ?? '', autocomplete: 'off', spellcheck: 'false' })
  let sort = SORTS.some(([key]) => key === parameters.get('sort')) ? parameters.get('sort') : 'channel'
  const restart = () => {
    remember('channels', { search: search.value, sort: sort === 'channel' ? '' : sort })
    pages.restart()
  }
  search.addEventListener('input', settled(restart))
  const table = tableOf('Channels', [
    { label: 'Channel', class: 'name', cell: ({ channel }) => h('a', { href: addressOf('channel', { name: channel }) }, channel) },
    { label: 'Flags', class: 'flags', cell: (channel) => flagsOf(channel) },
    { label: 'Readers', class: 'number', cell: ({ readers }) => count(readers) },
    { label: 'Writers', class: 'number', cell: ({ writers }) => count(writers) },
    { label: 'Connections', class: 'number', cell: ({ channel, connections }) => h('a', { href: addressOf('connections', { channel }), 'aria-label': count(connections) + ' connections of ' + channel }, count(connections)) },
    { label: 'Delivered', class: 'number', cell: (channel) => rate(channel.rate) }
  ])
  let again
  async function load(after) {
    const page = await api.page('channels', { scope: 'cluster', search: search.value, sort, limit: PAGE, after })
    // They are measured while somebody asks.
    if (page.items.length > 0 && page.items.every((channel) => channel.rate === null)) again ??= setTimeout(() => pages.refresh(), MEASURED)
    return page
  }
  const pages = new Pages({
    one: 'channel',
    empty: 'No channel with clients matches.',
    table,
    load
  })
  const element = h('div', {},
    title('Channels'),
    h('form', { class: 'filters', onsubmit: (event) => { event.preventDefault(); restart() } },
      field('Name contains', search),
      field('Order by', select(SORTS, sort, (value) => { sort = value; restart() }))),
    pages.element)
  pages.refresh()
  return {
    element,
    close() {
      clearTimeout(again)
      pages.close()
    }
  }
}
