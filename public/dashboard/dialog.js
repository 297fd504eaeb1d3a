import { alertOf, fill, h } from './dom.js'

/**
 * Asks before something is done.
 * @param options `heading`; `body`, texts and elements; `action`, the text of the button; and `run`, which does it. The
 *   dialog stays open with the error if it fails
 * @returns a promise of what `run` resolved with, or undefined if the answer was no
 */
export function confirmWith({ heading, body, action, run }) {
  return new Promise((resolve) => {
    let result
    const error = h('div')
    const button = h('button', { class: 'danger' }, action)
    const form = h('form', { method: 'dialog' },
      h('h2', { id: 'dialog-heading' }, heading), body, error,
      h('div', { class: 'bar' }, h('span', { class: 'grow' }), h('button', { type: 'button', autofocus: true, onclick: () => dialog.close() }, 'Cancel'), button))
    const dialog = h('dialog', { 'aria-labelledby': 'dialog-heading' }, form)
    form.addEventListener('submit', async (event) => {
      event.preventDefault()
      button.disabled = true
      try {
        result = await run()
        dialog.close()
      } catch (failure) {
        fill(error, alertOf(failure))
        button.disabled = false
      }
    })
    dialog.addEventListener('close', () => {
      dialog.remove()
      resolve(result)
    })
    document.body.append(dialog)
    // Closed with Escape, too. The focus returns to where it was.
    dialog.showModal()
  })
}
