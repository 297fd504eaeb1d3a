import { badge, field, h, select, setText, status, title } from './dom.js'
import { counted, time } from './format.js'
import { addressOf, remember } from './routes.js'
import { settled } from './table.js'

/** How many events are shown. */
const MAX_SHOWN = 300
const LEVELS = [['', 'all'], ['warning', 'warnings and errors'], ['error', 'errors']]
const KINDS = { info: 'plain', warning: 'warn', error: 'bad' }
const TYPES = ['close', 'refusal', 'ignored', 'unknown-parameter', 'listener-lost', 'listener-reconnected', 'lost-messages', 'healed-gap', 'retention', 'migration', 'schema', 'sequencer', 'bus', 'health', 'admin', 'revocation']
/** What has a place of its own in an item. */
const SHOWN = ['id', 'node', 'time', 'type', 'level', 'text', 'count', 'channel', 'channels', 'subject']

/** What has happened, newest first. */
export function events({ live, parameters }) {
  const wanted = { type: parameters.get('type') ?? '', level: parameters.get('level') ?? '' }
  let held = false
  const search = h('input', { type: 'search', autocomplete: 'off', spellcheck: 'false', value: parameters.get('search') ?? '' })
  const list = h('ol', { class: 'events' })
  const told = status()
  const known = new Set([...TYPES, ...live.events.map(({ type }) => type)])
  const pause = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => {
    held = !held
    pause.setAttribute('aria-pressed', String(held))
    setText(pause, held ? 'Resume' : 'Pause')
    if (!held) draw()
  } }, 'Pause')

  const matches = (event) => {
    if (wanted.type !== '' && event.type !== wanted.type) return false
    if (wanted.level === 'error' && event.level !== 'error') return false
    if (wanted.level === 'warning' && event.level === 'info') return false
    const text = search.value.trim().toLowerCase()
    return text === '' || JSON.stringify(event).toLowerCase().includes(text)
  }
  const tell = () => {
    const all = live.events.filter(matches)
    setText(told, all.length === 0 ? 'No event matches.' : counted(all.length, 'event') + (all.length > MAX_SHOWN ? `, the last ${MAX_SHOWN} here` : ''))
    return all
  }
  const draw = () => list.replaceChildren(...tell().slice(-MAX_SHOWN).reverse().map(itemOf))
  const changed = () => {
    remember('events', { ...wanted, search: search.value })
    draw()
  }
  search.addEventListener('input', settled(changed))
  // Many may come in one turn.
  let fresh = []
  const flush = () => {
    list.prepend(...fresh.reverse().map(itemOf))
    fresh = []
    while (list.children.length > MAX_SHOWN) list.lastChild.remove()
    tell()
  }
  const onEvent = ({ detail }) => {
    if (held || !matches(detail)) return
    if (fresh.length === 0) queueMicrotask(flush)
    fresh.push(detail)
  }
  live.addEventListener('event', onEvent)
  draw()
  const element = h('div', {},
    title('Events'),
    h('form', { class: 'filters', onsubmit: (event) => event.preventDefault() },
      field('Type', select([['', 'all'], ...[...known].map((type) => [type, type])], wanted.type, (value) => { wanted.type = value; changed() })),
      field('Level', select(LEVELS, wanted.level, (value) => { wanted.level = value; changed() })),
      field('Contains', search),
      pause),
    told, h('div', { role: 'log', 'aria-label': 'Events' }, list))
  return { element, close: () => live.removeEventListener('event', onEvent) }
}

function itemOf(event) {
  const { time: at, level, type, text, count, channel, channels, subject, node } = event
  const named = channels ?? (channel === undefined ? [] : [channel])
  const rest = Object.entries(event).filter(([name, value]) => !SHOWN.includes(name) && value !== null)
  return h('li', { class: 'event' },
    h('time', { datetime: at, class: 'soft' }, time(at)),
    h('span', {}, badge(KINDS[level] ?? 'plain', type)),
    h('div', { class: 'what' },
      h('span', {}, text), count > 1 && [' ', badge('plain', '× ' + count)],
      h('div', { class: 'soft small' },
        h('span', { class: 'mono', title: node }, String(node).slice(0, 8)),
        subject !== undefined && subject !== null && h('a', { href: addressOf('connections', { subject }) }, subject),
        named.slice(0, 5).map((name) => h('a', { href: addressOf('channel', { name }) }, name)),
        rest.map(([name, value]) => h('span', {}, name + ' ' + (typeof value === 'object' ? JSON.stringify(value) : value))))))
}
