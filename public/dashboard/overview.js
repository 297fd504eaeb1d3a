import { badge, fill, h, select, setText, status, title } from './dom.js'
import { bytes, count, counted, milliseconds, number, rate } from './format.js'
import { NodeCards } from './nodes.js'
import { Plot } from './plots.js'
import { BUCKET, combined, growth, latestRate, max, rateOf, sampled, sum, timesOf, figureOf } from './series.js'

/** How many reasons have a line of their own. The others are added up. */
const MAX_REASONS = 7
/** How often the page is drawn at most, in milliseconds. */
const PERIOD = 1000

/** Round numbers of bytes. */
const POWERS = Array.from({ length: 45 }, (_, exponent) => 2 ** exponent)

const total = (counters) => sum(Object.values(counters ?? {}))

/** Health, plots of the last ten minutes and the nodes. */
export function overview({ live }) {
  let chosen = ''
  const node = select([['', 'all nodes']], '', (value) => { chosen = value; draw() })
  node.setAttribute('aria-label', 'Nodes of the figures')
  const health = h('div', { class: 'health' })
  const told = status()
  const tiles = tilesOf()
  const plots = plotsOf()
  const cards = new NodeCards()
  const element = h('div', {},
    title('Overview', h('span', { class: 'grow' }), node),
    told, health, tiles.element,
    h('h2', {}, 'The last ten minutes'),
    h('div', { class: 'plots' }, plots.map(({ plot }) => plot.element)),
    h('h2', {}, 'Nodes'),
    cards.element)

  function draw() {
    timer = undefined
    // A tab that nobody sees draws nothing.
    if (document.hidden) return
    const all = live.current
    setText(told, all.length === 0 ? (live.state === 'live' ? 'Waiting for the first figures …' : 'Connecting …') : '')
    keepOptions(node, all)
    if (!all.some(({ id }) => id === chosen)) chosen = node.value = ''
    const shown = all.filter(({ id }) => chosen === '' || id === chosen)
    showHealth(health, shown)
    tiles.show(shown.filter(({ reporting }) => reporting))
    const times = timesOf(shown)
    for (const { plot, lines } of plots) plot.show(...lines(shown, times))
    cards.show(all)
  }

  let timer
  const soon = () => { timer ??= setTimeout(draw, PERIOD) }
  const visible = () => { if (!document.hidden) draw() }
  live.addEventListener('stats', soon)
  live.addEventListener('state', soon)
  document.addEventListener('visibilitychange', visible)
  // For nodes that have stopped reporting.
  const clock = setInterval(soon, 5000)
  draw()
  return {
    element,
    close() {
      clearTimeout(timer)
      clearInterval(clock)
      live.removeEventListener('stats', soon)
      live.removeEventListener('state', soon)
      document.removeEventListener('visibilitychange', visible)
      for (const { plot } of plots) plot.close()
    }
  }
}

function keepOptions(control, nodes) {
  const wanted = ['', ...nodes.map(({ id }) => id)]
  if (wanted.join() === [...control.options].map(({ value }) => value).join()) return
  const { value } = control
  fill(control, h('option', { value: '' }, 'all nodes'), nodes.map(({ id, stats }) => h('option', { value: id }, stats.hostname + ' · ' + id.slice(0, 8))))
  control.value = wanted.includes(value) ? value : ''
}

/** The worst of the nodes, and why. Drawn again only if it changes. */
function showHealth(element, nodes) {
  const lines = nodes.flatMap(({ stats, reporting, id }) => {
    const name = stats.hostname + ' · ' + id.slice(0, 8)
    if (!reporting) return [['bad', name, 'has stopped reporting']]
    if (stats.status === 'ok') return []
    return [[stats.status === 'degraded' ? 'warn' : 'bad', name, stats.status + ((stats.reasons ?? []).length > 0 ? ': ' + stats.reasons.join('; ') : '')]]
  })
  const key = JSON.stringify([nodes.length, lines])
  if (element.dataset.key === key) return
  element.dataset.key = key
  if (nodes.length === 0) return fill(element)
  if (lines.length === 0) return fill(element, h('p', {}, badge('good', 'ok'), nodes.length === 1 ? ' The node is healthy.' : ` All ${nodes.length} nodes are healthy.`))
  fill(element, h('ul', {}, lines.map(([kind, name, text]) => h('li', {}, badge(kind, kind === 'warn' ? 'degraded' : 'down'), ' ', h('b', {}, name), ' ', text))))
}

/** The figures of now. */
function tilesOf() {
  const tile = (label) => {
    const value = h('dd')
    return { value, element: h('div', { class: 'tile' }, h('dt', {}, label), value) }
  }
  const figures = [
    ['connections', (nodes) => count(sum(nodes.map(({ stats }) => stats.connections)))],
    ['channels of nodes', (nodes) => count(sum(nodes.map(({ stats }) => stats.channels)))],
    ['messages in', (nodes) => rate(sum(nodes.map(({ samples }) => latestRate(samples, (stats) => stats.receivedMessages) ?? 0)))],
    ['messages out', (nodes) => rate(sum(nodes.map(({ samples }) => latestRate(samples, (stats) => stats.sentMessages) ?? 0)))],
    ['delivery p99', (nodes) => milliseconds(highest(nodes, ({ delivery }) => delivery?.p99Ms))],
    ['event-loop lag', (nodes) => milliseconds(highest(nodes, ({ eventLoopLagMs }) => eventLoopLagMs))],
    ['waiting for clients', (nodes) => bytes(sum(nodes.map(({ stats }) => stats.bufferedBytes ?? 0)))],
    ['lost messages', (nodes) => count(sum(nodes.map(({ stats }) => total(stats.lostMessages))))]
  ].map(([label, read]) => ({ ...tile(label), read }))
  return {
    element: h('dl', { class: 'tiles' }, figures.map(({ element }) => element)),
    show(nodes) {
      for (const { value, read } of figures) setText(value, nodes.length === 0 ? '–' : read(nodes))
    }
  }
}

function highest(nodes, read) {
  const values = nodes.map(({ stats }) => read(stats)).filter((value) => typeof value === 'number')
  return values.length === 0 ? undefined : max(values)
}

/** The plots, each with what makes its lines of the nodes. */
function plotsOf() {
  const lines = (value, combine) => (nodes, times) => combined(nodes.map(({ samples }) => sampled(samples, times, value)), combine)
  const plot = (options, series) => ({
    plot: new Plot(options),
    lines: (nodes, times) => [times, series.map(([name, make]) => [name, make(nodes, times)])]
  })
  return [
    plot({ title: 'Messages', unit: 'per second', format: number }, [
      ['in', lines(rateOf((stats) => stats.receivedMessages), sum)],
      ['out', lines(rateOf((stats) => stats.sentMessages), sum)]
    ]),
    plot({ title: 'Connections', unit: 'open', format: number }, [['connections', lines(figureOf((stats) => stats.connections), sum)]]),
    plot({ title: 'Delivery', unit: 'from commit to the socket', format: milliseconds }, [
      ['p50', lines(figureOf((stats) => stats.delivery?.p50Ms), max)],
      ['p99', lines(figureOf((stats) => stats.delivery?.p99Ms), max)]
    ]),
    { plot: new Plot({ title: 'Closes and refusals', unit: 'in ten seconds, by reason', format: number }), lines: reasonLines },
    plot({ title: 'Event-loop lag', unit: 'p99', format: milliseconds }, [['lag', lines(figureOf((stats) => stats.eventLoopLagMs), max)]]),
    plot({ title: 'Memory', unit: 'of the processes', format: bytes, incrs: POWERS }, [
      ['resident', lines(figureOf((stats) => stats.memoryBytes), sum)],
      ['heap', lines(figureOf((stats) => stats.heapBytes), sum)]
    ])
  ]
}

/** A line for each reason that occurred in the last ten minutes, the most frequent first. */
function reasonLines(nodes) {
  const times = timesOf(nodes, BUCKET)
  const found = []
  for (const [kind, name] of [['closes', ''], ['refusals', 'refused: ']]) {
    const reasons = new Set(nodes.flatMap(({ stats }) => Object.keys(stats[kind] ?? {})))
    for (const reason of reasons) {
      const values = combined(nodes.map(({ samples }) => growth(samples, times, (stats) => stats[kind]?.[reason])), sum)
      const whole = sum(values.filter((value) => value !== null))
      if (whole > 0.5) found.push([name + reason, values, whole])
    }
  }
  found.sort((a, b) => b[2] - a[2])
  const rest = found.splice(MAX_REASONS)
  if (rest.length > 0) found.push([counted(rest.length, 'other reason'), combined(rest.map(([, values]) => values), sum)])
  return [times, found.length > 0 ? found : [['none', times.map(() => 0)]]]
}
