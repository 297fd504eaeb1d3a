import { alertOf, fill, h, setText, status } from './dom.js'
import { counted } from './format.js'

/** How many rows a page has. */
export const PAGE = 50

/**
 * A table. On a narrow screen each row is a card, with the labels of the columns beside the values; the roles keep it a
 * table for screen readers then.
 * @param columns each with a `label`, `cell`, which makes a text or an element of a row, a `class`, and `known`: a column is
 *   hidden if nothing is known of it in any row
 */
export function tableOf(caption, columns) {
  const body = h('tbody', { role: 'rowgroup' })
  const heads = columns.map((column) => h('th', { scope: 'col', role: 'columnheader', class: column.class }, column.label))
  const element = h('table', { class: 'list', role: 'table' },
    h('caption', { class: 'hidden' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, heads)),
    body)
  return {
    element,
    show(rows) {
      const focused = body.contains(document.activeElement) ? nameOf(document.activeElement) : undefined
      const shown = columns.filter(({ known }) => known === undefined || rows.some(known))
      for (const [index, column] of columns.entries()) heads[index].hidden = !shown.includes(column)
      fill(body, rows.map((row) => h('tr', { role: 'row' }, shown.map((column) => h('td', { role: 'cell', class: column.class, 'data-label': column.label }, h('div', {}, column.cell(row)))))))
      element.hidden = rows.length === 0
      // The keyboard stays where it was.
      if (focused !== undefined) [...body.querySelectorAll('a, button')].find((control) => nameOf(control) === focused)?.focus({ preventScroll: true })
    }
  }
}

const nameOf = (control) => control.getAttribute('aria-label') ?? control.textContent

/**
 * A list of the server in pages, with what is needed to turn them.
 * @param options `load`, which resolves with a page after a cursor; `table`; `one` and `many`, the words for an item; and
 *   `empty`, what is said of no item
 */
export class Pages {
  /** The cursors of the pages before this one. */
  #before = []
  #cursor
  #next
  #turn = 0
  #timer

  constructor({ load, table, one, many = one + 's', empty }) {
    Object.assign(this, { load, table, one, many, empty })
    this.told = status()
    this.error = h('div')
    this.previous = h('button', { type: 'button', disabled: true, onclick: () => { this.#cursor = this.#before.pop(); this.refresh() } }, 'Previous page')
    this.following = h('button', { type: 'button', disabled: true, onclick: () => { this.#before.push(this.#cursor); this.#cursor = this.#next; this.refresh() } }, 'Next page')
    const often = h('input', { type: 'checkbox', onchange: () => this.#again(often.checked) })
    this.element = h('div', {},
      h('div', { class: 'bar' }, this.told, h('span', { class: 'grow' }),
        h('label', { class: 'check' }, often, 'Refresh every 5 s'),
        h('button', { type: 'button', onclick: () => this.refresh() }, 'Refresh')),
      this.error, table.element,
      h('div', { class: 'bar' }, this.previous, this.following))
  }

  /** Begins with the first page again, for another filter. */
  restart() {
    this.#before = []
    this.#cursor = undefined
    return this.refresh()
  }

  /** Loads this page. A later call wins over one that is still waiting. */
  async refresh() {
    const turn = ++this.#turn
    try {
      const page = await this.load(this.#cursor)
      if (turn !== this.#turn) return
      this.#next = page.next
      this.table.show(page.items)
      fill(this.error)
      setText(this.told, this.#text(page))
    } catch (error) {
      if (turn !== this.#turn) return
      fill(this.error, alertOf(error))
    }
    this.previous.disabled = this.#before.length === 0
    this.following.disabled = this.#next === undefined
  }

  close() {
    this.#turn = -1
    clearInterval(this.#timer)
  }

  #text({ items, total, next, missing = [] }) {
    const first = this.#before.length * PAGE + 1
    // Not all lists know how many items there are.
    if (total === undefined) {
      const last = first + items.length - 1
      return last === 0 ? this.empty : counted(last, this.one, this.many) + (next === undefined ? '' : ' and more')
    }
    const range = total > items.length && items.length > 0 ? `, ${first} to ${first + items.length - 1} of them here` : ''
    const absent = missing.length > 0 ? `. Nodes that did not answer: ${missing.join(', ')}` : ''
    return (total === 0 ? this.empty : counted(total, this.one, this.many) + range) + absent
  }

  #again(on) {
    clearInterval(this.#timer)
    if (!on) return
    this.refresh()
    this.#timer = setInterval(() => { if (!document.hidden) this.refresh() }, 5000)
  }
}

/** Calls a function when its input has rested for a moment. */
export function settled(run, wait = 300) {
  let timer
  return () => {
    clearTimeout(timer)
    timer = setTimeout(run, wait)
  }
}
