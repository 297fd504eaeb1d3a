import { alertOf, fill, h, status, title } from './dom.js'
import { duration, NONE } from './format.js'

/** Retention rules and watched tables, with the SQL that changes them. */
export function rules({ api }) {
  const retention = h('div', {}, status('Loading …'))
  const watches = h('div', {}, status('Loading …'))
  const show = async (place, path, make, empty) => {
    try {
      const items = await api.json(path)
      fill(place, items.length === 0 ? h('p', { class: 'soft' }, empty) : items.map((item) => h('section', { class: 'panel rule' }, make(item), sqlOf(item.sql))))
    } catch (error) {
      fill(place, alertOf(error))
    }
  }
  show(retention, 'retention', ({ pattern, sql: _, ...rest }) => [h('h3', { class: 'name' }, pattern), detailsOf(rest)], 'There is no rule, so no channel is durable. pgws.retain makes one.')
  show(watches, 'watches', ({ table, sql: _, ...rest }) => [h('h3', { class: 'name' }, table), detailsOf(rest)], 'No table is watched. pgws.watch makes it so.')
  const element = h('div', {}, title('Rules'), h('h2', {}, 'Retention rules'), retention, h('h2', {}, 'Watched tables'), watches)
  return { element, close() {} }
}

/** Anything else that the server tells of a rule. */
function detailsOf(fields) {
  return h('dl', { class: 'pairs' }, Object.entries(fields).map(([name, value]) => h('div', {}, h('dt', {}, wordsOf(name)), h('dd', {}, textOf(name, value)))))
}

const wordsOf = (name) => name.replace(/[A-Z]/g, (letter) => ' ' + letter.toLowerCase())

function textOf(name, value) {
  if (value === null || value === undefined) return NONE
  if (name.endsWith('Ms')) return duration(value)
  if (name.endsWith('Seconds')) return duration(value * 1000)
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  return Array.isArray(value) ? value.join(', ') : typeof value === 'object' ? JSON.stringify(value) : String(value)
}

/** SQL to paste. @param sql a statement, a list of them, or statements by what they do */
function sqlOf(sql) {
  if (sql === undefined || sql === null) return undefined
  const named = typeof sql === 'string' ? [['SQL', sql]] : Array.isArray(sql) ? sql.map((text) => ['SQL', text]) : Object.entries(sql)
  return named.map(([name, text]) => {
    const code = h('pre', {}, h('code', {}, text))
    const button = h('button', { type: 'button', onclick: () => copy(code, button) }, 'Copy')
    return h('div', { class: 'command' }, h('div', { class: 'bar' }, h('span', { class: 'soft' }, name === 'SQL' ? name : wordsOf(name)), h('span', { class: 'grow' }), button), code)
  })
}

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent)
    button.textContent = 'Copied'
    setTimeout(() => { button.textContent = 'Copy' }, 1500)
  } catch {
    // Without a secure context there is no clipboard; Ctrl+C copies what is selected.
    getSelection().selectAllChildren(code)
  }
}
