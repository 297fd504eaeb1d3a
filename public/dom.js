export const $ = (id) => document.getElementById(id)

/** Makes an element. The text is never read as HTML. */
export function element(name, className, text) {
  const node = document.createElement(name)
  if (className) node.className = className
  if (text !== undefined) node.textContent = text
  return node
}
