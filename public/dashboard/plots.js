import { h, setText } from './dom.js'
import { timeOfDay } from './format.js'
import { summaryOf } from './series.js'

const HEIGHT = 150
/** The pointer shows the same time in all plots. */
const sync = uPlot.sync('dashboard')
const dark = matchMedia('(prefers-color-scheme: dark)')

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()

/**
 * A plot with its figures as a table, which is the legend and the text for those who do not see the plot.
 * @param options `title`, `unit`, `format`, which makes a text of a value, and `incrs`, the distances of the lines behind
 */
export class Plot {
  #lines = []
  #data = [[]]
  #uplot

  constructor({ title, unit, format, incrs }) {
    Object.assign(this, { format, incrs })
    this.canvas = h('div', { class: 'canvas', 'aria-hidden': 'true' })
    this.rows = h('tbody')
    const head = ['', 'now', 'mean', 'highest'].map((text, index) => h('th', { scope: 'col' }, index === 0 ? h('span', { class: 'hidden' }, 'series') : text))
    this.element = h('figure', { class: 'panel plot' },
      h('figcaption', {}, h('h3', {}, title), h('span', { class: 'soft' }, unit)),
      this.canvas,
      h('table', { class: 'legend' }, h('caption', { class: 'hidden' }, title + ' in the last ten minutes, ' + unit), h('thead', {}, h('tr', {}, head)), this.rows))
    this.observer = new ResizeObserver(() => this.#resize())
    this.observer.observe(this.canvas)
    this.onScheme = () => this.#draw(true)
    dark.addEventListener('change', this.onScheme)
  }

  /** @param times in seconds @param lines pairs of a name and its values */
  show(times, lines) {
    const names = lines.map(([name]) => name)
    const changed = names.join('\n') !== this.#lines.map(({ name }) => name).join('\n')
    if (changed) {
      this.#lines = names.map((name, index) => {
        const cells = [0, 1, 2].map(() => h('td'))
        return { name, cells, row: h('tr', {}, h('th', { scope: 'row' }, h('i', { class: 'swatch s' + (index % 8) }), name), cells) }
      })
      this.rows.replaceChildren(...this.#lines.map(({ row }) => row))
    }
    this.#data = [times, ...lines.map(([, values]) => values)]
    for (const [index, { cells }] of this.#lines.entries()) {
      const { last, mean, highest } = summaryOf(lines[index][1])
      for (const [at, value] of [last, mean, highest].entries()) setText(cells[at], this.format(value))
    }
    this.#draw(changed)
  }

  close() {
    this.observer.disconnect()
    dark.removeEventListener('change', this.onScheme)
    this.#uplot?.destroy()
  }

  #draw(anew) {
    const width = this.canvas.clientWidth
    if (width === 0) return
    if (!anew && this.#uplot) return this.#uplot.setData(this.#data)
    this.#uplot?.destroy()
    const axis = { stroke: colour('soft'), grid: { stroke: colour('line'), width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif' }
    this.#uplot = new uPlot({
      width,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: sync.key }, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true }, y: { range: (_, __, highest) => [0, highest > 0 ? highest * 1.1 : 1] } },
      axes: [
        { ...axis, size: 22, space: 70, values: (_, splits) => splits.map((seconds) => timeOfDay(seconds * 1000).slice(0, 5)) },
        { ...axis, size: 56, space: 28, ...(this.incrs && { incrs: this.incrs }), values: (_, splits) => splits.map((value) => this.format(value)) }
      ],
      series: [{}, ...this.#lines.map(({ name }, index) => ({ label: name, stroke: colour('s' + (index % 8)), width: 1.5, points: { show: false } }))],
      hooks: { setCursor: [(plot) => this.#point(plot.cursor.idx)] }
    }, this.#data, this.canvas)
  }

  /** Shows the values under the pointer in the table. */
  #point(index) {
    for (const [at, { cells }] of this.#lines.entries()) {
      const values = this.#data[at + 1]
      setText(cells[0], this.format(index === null || index === undefined ? summaryOf(values).last : (values[index] ?? undefined)))
    }
  }

  #resize() {
    const width = this.canvas.clientWidth
    if (width === 0) return
    if (this.#uplot === undefined) this.#draw(true)
    else if (this.#uplot.width !== width) this.#uplot.setSize({ width, height: HEIGHT })
  }
}
