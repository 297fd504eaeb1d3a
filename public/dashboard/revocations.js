import { confirmWith } from './dialog.js'
import { field, h, outcome, select, setText, title } from './dom.js'
import { NONE, time } from './format.js'
import { PAGE, Pages, tableOf } from './table.js'

const KINDS = [['sub', 'all tokens of a subject (sub)'], ['jti', 'one token (jti)']]

/** The tokens that are refused although they have not expired. */
export function revocations({ api, parameters }) {
  const done = outcome()
  const table = tableOf('Revocations', [
    { label: 'Tokens', class: 'name', cell: ({ jti, sub }) => (jti === null || jti === undefined ? ['sub ', h('b', {}, sub)] : ['jti ', h('b', {}, jti)]) },
    { label: 'Issued before', cell: ({ issuedBefore }) => (issuedBefore ? h('time', { datetime: issuedBefore }, time(issuedBefore)) : NONE) },
    { label: 'Reason', class: 'name', cell: ({ reason }) => reason ?? NONE },
    { label: 'Revoked', cell: ({ revokedAt, revokedBy }) => [h('time', { datetime: revokedAt }, time(revokedAt)), revokedBy && h('div', { class: 'soft' }, 'by ' + revokedBy)] },
    { label: 'Kept until', cell: ({ expires }) => (expires ? h('time', { datetime: expires }, time(expires)) : 'for good') },
    { label: 'Actions', class: 'actions', cell: (revocation) => h('button', { type: 'button', 'aria-label': 'Remove the revocation of ' + (revocation.jti ?? revocation.sub), onclick: () => remove(revocation) }, 'Remove') }
  ])
  const pages = new Pages({ one: 'revocation', empty: 'No token is revoked.', table, load })

  /** One more than a page has says whether there is another page. */
  async function load(after) {
    const { items } = await api.page('revocations', { limit: PAGE + 1, after })
    const shown = items.slice(0, PAGE)
    return { items: shown, next: items.length > PAGE ? shown.at(-1).id : undefined }
  }

  async function remove({ id, jti, sub }) {
    const removed = await confirmWith({
      heading: 'Remove the revocation?',
      body: h('p', {}, jti ? `The token with the jti “${jti}” is accepted again, until it expires.` : `Tokens of “${sub}” are accepted again, until they expire.`),
      action: 'Remove',
      run: async () => {
        await api.json('revocations/' + encodeURIComponent(id), { method: 'DELETE' })
        return true
      }
    })
    if (!removed) return
    setText(done, 'The revocation is removed.')
    done.focus()
    pages.refresh()
  }

  const kind = select(KINDS, parameters.has('jti') ? 'jti' : 'sub', () => changed())
  const value = h('input', { required: true, autocomplete: 'off', spellcheck: 'false', value: parameters.get('sub') ?? parameters.get('jti') ?? '' })
  const before = h('input', { type: 'datetime-local', step: 1 })
  const expires = h('input', { type: 'datetime-local', step: 1 })
  const reason = h('input', { autocomplete: 'off' })
  const beforeField = field('Issued before', before, 'Empty: now.')
  const changed = () => { beforeField.hidden = kind.value === 'jti' }
  changed()
  const form = h('form', { class: 'filters', onsubmit: add },
    field('Revoke', kind), field('Its value', value), beforeField,
    field('Keep until', expires, 'When the tokens would have expired. Empty: for good.'),
    field('Reason', reason),
    h('button', { class: 'danger' }, 'Revoke …'))

  async function add(event) {
    event.preventDefault()
    const body = {
      [kind.value]: value.value,
      ...(kind.value === 'sub' && before.value !== '' && { issuedBefore: new Date(before.value).toISOString() }),
      ...(expires.value !== '' && { expires: new Date(expires.value).toISOString() }),
      ...(reason.value !== '' && { reason: reason.value })
    }
    const which = kind.value === 'jti' ? `the token with the jti “${value.value}”` : `all tokens of “${value.value}”${before.value === '' ? ' that were issued until now' : ' that were issued before ' + time(body.issuedBefore)}`
    const made = await confirmWith({
      heading: 'Revoke tokens?',
      body: h('p', {}, `All nodes refuse ${which}, and close the connections that use ${kind.value === 'jti' ? 'it' : 'them'}.`),
      action: 'Revoke',
      run: async () => {
        await api.json('revocations', { method: 'POST', body: JSON.stringify(body) })
        return true
      }
    })
    if (!made) return
    setText(done, 'Revoked.')
    value.value = reason.value = before.value = expires.value = ''
    pages.restart()
  }

  const element = h('div', {}, title('Revocations'), form, done, pages.element)
  pages.refresh()
  return { element, close: () => pages.close() }
}
