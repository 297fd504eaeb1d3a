import { badge, fill, h, setText } from './dom.js'
import { bytes, count, duration, milliseconds, NONE, percent, rate, time } from './format.js'
import { latestRate } from './series.js'

const KINDS = { ok: 'good', degraded: 'warn', unavailable: 'bad' }

const statusOf = (part) => (part !== null && typeof part === 'object' ? part.status : part)
/** Counters by name, the largest first. */
const listed = (counters) => {
  const entries = Object.entries(counters ?? {}).filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1])
  return entries.length === 0 ? 'none' : entries.map(([name, value]) => name + ' ' + count(value)).join(', ')
}

function usageOf(queue) {
  const usage = queue !== null && typeof queue === 'object' ? queue.usage : queue
  return typeof usage === 'number' ? percent(usage) + ' full' : NONE
}

function roleOf(sequencer) {
  const is = sequencer !== null && typeof sequencer === 'object' ? sequencer.sequencer : sequencer
  const state = statusOf(sequencer)
  return (is === true ? 'sequencer' : 'follower') + (typeof state === 'string' && state !== 'ok' ? ' (' + state + ')' : '')
}

/** The figures of a node, in groups: a label, and what makes a text of the node. */
const GROUPS = [
  ['Health', [
    ['listener', ({ stats }) => statusOf(stats.listener) ?? NONE],
    ['pool', ({ stats }) => statusOf(stats.pool) ?? NONE],
    ['schema', ({ stats }) => statusOf(stats.schema) ?? NONE],
    ['notification queue', ({ stats }) => usageOf(stats.notificationQueue)],
    ['role', ({ stats }) => roleOf(stats.sequencer)]
  ]],
  ['Process', [
    ['memory', ({ stats }) => bytes(stats.memoryBytes)],
    ['heap', ({ stats }) => bytes(stats.heapBytes)],
    ['CPU', ({ stats }) => (typeof stats.cpu === 'number' ? percent(stats.cpu) + ' of a core' : NONE)],
    ['event-loop lag p99', ({ stats }) => milliseconds(stats.eventLoopLagMs)]
  ]],
  ['Clients', [
    ['connections', ({ stats }) => count(stats.connections)],
    ['transports', ({ stats }) => listed(stats.transports)],
    ['channels', ({ stats }) => count(stats.channels)]
  ]],
  ['Messages', [
    ['in', ({ samples }) => rate(latestRate(samples, (stats) => stats.receivedMessages))],
    ['out', ({ samples }) => rate(latestRate(samples, (stats) => stats.sentMessages))],
    ['bytes out', ({ samples }) => perSecond(latestRate(samples, (stats) => stats.sentBytes))],
    ['notifications', ({ samples }) => rate(latestRate(samples, (stats) => stats.notifications))],
    ['delivery p50, p99', ({ stats: { delivery } }) => (delivery ? milliseconds(delivery.p50Ms) + ', ' + milliseconds(delivery.p99Ms) : NONE)]
  ]],
  ['Queues', [
    ['waiting for clients', ({ stats }) => bytes(stats.bufferedBytes)],
    ['waiting for the database', ({ stats }) => bytes(stats.publishQueueBytes)],
    ['outbox', ({ stats }) => bytes(stats.outboxBytes)],
    ['paused sockets', ({ stats }) => count(stats.pausedSockets)],
    ['slow catch-ups', ({ stats }) => count(stats.slowCatchUps)]
  ]],
  ['Since the start', [
    ['closes', ({ stats }) => listed(stats.closes)],
    ['refusals', ({ stats }) => listed(stats.refusals)],
    ['lost messages', ({ stats }) => listed(stats.lostMessages)]
  ]]
]

const perSecond = (value) => (value === null ? NONE : bytes(value) + '/s')

/** A card for each node. Cards stay while their texts change. */
export class NodeCards {
  #cards = new Map()
  element = h('div', { class: 'nodes' })

  show(nodes) {
    for (const id of this.#cards.keys()) if (!nodes.some((node) => node.id === id)) this.#cards.delete(id)
    for (const node of nodes) {
      if (!this.#cards.has(node.id)) this.#cards.set(node.id, cardOf(node))
      this.#cards.get(node.id).show(node)
    }
    const wanted = nodes.map(({ id }) => this.#cards.get(id).element)
    if (wanted.length !== this.element.children.length || wanted.some((card, index) => this.element.children[index] !== card)) fill(this.element, wanted)
  }
}

function cardOf({ id, stats }) {
  const mark = h('span')
  const about = h('p', { class: 'soft' })
  const reasons = h('p', { class: 'reasons' })
  const groups = GROUPS.map(([name, figures]) => {
    const values = figures.map(([label, read]) => ({ read, value: h('dd'), label }))
    return { values, element: h('div', { class: 'group' }, h('h4', {}, name), h('dl', {}, values.map(({ label, value }) => h('div', {}, h('dt', {}, label), value)))) }
  })
  const element = h('section', { class: 'panel node', 'aria-label': 'Node ' + stats.hostname + ' ' + id },
    h('div', { class: 'title' }, h('h3', {}, stats.hostname, ' ', h('span', { class: 'mono soft' }, id)), mark),
    about, reasons, h('div', { class: 'groups' }, groups.map((group) => group.element)))
  return {
    element,
    show(node) {
      const { stats, reporting } = node
      const kind = reporting ? (KINDS[stats.status] ?? 'warn') : 'bad'
      const text = reporting ? stats.status : 'not reporting'
      if (mark.textContent !== text) fill(mark, badge(kind, text))
      setText(about, `version ${stats.version}, up ${duration(Date.parse(stats.time) - Date.parse(stats.startedAt))}${reporting ? '' : ', last heard of at ' + time(stats.time)}`)
      setText(reasons, (stats.reasons ?? []).join('; '))
      for (const { values } of groups) for (const { value, read } of values) setText(value, read(node))
    }
  }
}
