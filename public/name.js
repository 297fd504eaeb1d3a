// The name of the person at this window, which is the claim `sub` of the token. The server prints a token without a name;
// an administrator's token is exchanged for one with the name.
import { $ } from './dom.js'
import { claimsOf, request } from './token.js'

/** Whether this server has said that it does not give names. */
let unavailable = false

const mayChoose = (token) => !unavailable && claimsOf(token).admin === true

/** Asks for a name in place of a message, if the token has none, and may get one. */
export function showName(token) {
  const { sub } = claimsOf(token)
  askForName(!sub && mayChoose(token))
  $('me').hidden = typeof sub !== 'string'
  $('my-name').textContent = sub ?? ''
  $('rename').hidden = !mayChoose(token)
}

function askForName(asked) {
  $('name-form').hidden = !asked
  $('send-form').hidden = asked
  $('name-hint').textContent = ''
}

/**
 * @param tokenNow returns the token of the room
 * @param onToken is called with the token that has the name
 */
export function listenToName(tokenNow, onToken) {
  $('rename').addEventListener('click', () => {
    $('name').value = claimsOf(tokenNow()).sub
    askForName(true)
    $('name').select()
  })
  $('name').addEventListener('keydown', ({ key }) => { if (key === 'Escape') showName(tokenNow()) })
  $('name-form').addEventListener('submit', async (event) => {
    event.preventDefault()
    const token = tokenNow()
    try {
      const answer = await request(token, 'token', { method: 'POST', body: { sub: $('name').value } })
      if (answer.ok) {
        onToken((await answer.json()).token)
        $('message').focus()
        return
      }
      // This server signs no tokens. Whoever does decides about names.
      unavailable = answer.status === 404
      if (unavailable) showName(token)
      else $('name-hint').textContent = (await answer.json()).message
    } catch {
      $('name-hint').textContent = 'The server does not answer. Try again.'
    }
  })
}
