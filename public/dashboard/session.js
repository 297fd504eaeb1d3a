import { base } from './api.js'
import { h, field, alertOf } from './dom.js'

/** The token is kept in this tab alone. Servers below other paths of this origin have tokens of their own. */
const KEY = 'pgws-dashboard-token ' + base

/** Moves a token from the address, where it would stay in the history, to the tab. Returns the tab's token. */
export function readToken() {
  const token = location.hash.startsWith('#token=') ? new URLSearchParams(location.hash.slice(1)).get('token') : null
  if (token !== null) {
    history.replaceState(null, '', location.pathname + location.search)
    keep(token.trim())
  }
  return sessionStorage.getItem(KEY) || undefined
}

export const keep = (token) => sessionStorage.setItem(KEY, token)
export const forget = () => sessionStorage.removeItem(KEY)

/** The form that asks for a token. @param error why the last one was refused */
export function signIn(onToken, error) {
  const input = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true, class: 'mono' })
  const submit = (event) => {
    event.preventDefault()
    const token = input.value.trim()
    if (token !== '') onToken(token)
  }
  return h('section', { class: 'panel sign-in' },
    h('h1', {}, 'Dashboard'),
    h('p', {}, 'Everything here needs a token with the claim ', h('code', {}, '"admin": true'), '. It stays in this tab.'),
    error && alertOf(error),
    h('form', { onsubmit: submit },
      field('Token', input, h('span', {}, 'Make one with ', h('code', {}, 'npx fastify-pg-websockets token --admin --mode rw --expires 8h'), '.')),
      h('button', { class: 'primary' }, 'Open the dashboard')))
}
