// All elements of the page are made here. Texts become text nodes, never HTML: names of channels, subjects and user agents
// come from strangers.

/**
 * Makes an element.
 * @param name the tag
 * @param attributes `class`, `onclick` and so on; false, null and undefined are left out, true is an empty attribute
 * @param children elements and texts; null, undefined and false are left out
 */
export function h(name, attributes = {}, ...children) {
  const node = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value)
    else node.setAttribute(key, value === true ? '' : String(value))
  }
  node.append(...present(children))
  return node
}

const present = (children) =>
  children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false).map((child) => (child instanceof Node ? child : String(child)))

/** Replaces the text of an element if it is another. Nothing is drawn, or read aloud, for one that stays. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text
}

/** Replaces what an element holds. */
export function fill(node, ...children) {
  node.replaceChildren(...present(children))
}

let ids = 0

/** A label and its control, with a hint below it. @param hint a text, or an element */
export function field(label, control, hint) {
  control.id ||= 'field-' + ++ids
  const note = hint && h('p', { class: 'hint', id: control.id + '-hint' }, hint)
  if (note) control.setAttribute('aria-describedby', note.id)
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, note)
}

/** A select. @param options pairs of a value and its text */
export function select(options, value, onchange) {
  const control = h('select', { onchange: () => onchange?.(control.value) })
  for (const [key, text] of options) control.append(h('option', { value: key, selected: key === value }, text))
  return control
}

/** A heading, with what belongs beside it. */
export function title(text, ...beside) {
  return h('div', { class: 'title' }, h('h1', {}, text), ...beside)
}

/** A text that a screen reader reads aloud when it changes. */
export function status(text = '') {
  return h('p', { class: 'status', role: 'status' }, text)
}

/** What an action has done. It takes the focus if the control of the action is gone. */
export function outcome() {
  const told = status()
  told.tabIndex = -1
  return told
}

/** An error, read aloud at once. */
export function alertOf(error) {
  return h('p', { class: 'alert', role: 'alert' }, error.message)
}

/** A coloured mark with its meaning as text, because colours alone are not enough. */
export function badge(kind, text) {
  return h('span', { class: 'badge ' + kind }, text)
}
