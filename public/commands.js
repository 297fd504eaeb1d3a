// The commands that publish to the room's channel from elsewhere.
import { $ } from './dom.js'
import { base, namesIn } from './token.js'

const sqlText = (text) => "'" + text.replace(/'/g, "''") + "'"
/** In sh, double quotes leave single ones alone, and so are easier to read around SQL. */
const shellText = (text) => /["$`\\!]/.test(text) ? "'" + text.replace(/'/g, "'\\''") + "'" : '"' + text + '"'

export function showCommands() {
  const token = $('token').value.trim()
  const channel = $('channel').value || namesIn(token)[0] || 'chat'
  const sql = 'select pgws.publish_text(' + sqlText(channel) + ", 'Hello from SQL')"
  $('sql').textContent = sql + ';'
  $('npm').textContent = 'npm run sql -- ' + shellText(sql)
  $('curl').textContent = 'curl -X POST ' + location.origin + base + "publish -H 'Content-Type: application/json' -H 'Authorization: Bearer " + token + "' -d " + shellText(JSON.stringify({ channel, payload: 'Hello from curl' }))
}

for (const id of ['channel', 'token']) $(id).addEventListener('input', showCommands)
for (const button of document.querySelectorAll('[data-copy]')) {
  button.addEventListener('click', async () => {
    const target = $(button.dataset.copy)
    try {
      await navigator.clipboard.writeText(target.textContent)
      button.textContent = 'Copied'
      setTimeout(() => { button.textContent = 'Copy' }, 1500)
    } catch {
      // Without a secure context there is no clipboard; Ctrl+C copies what is selected.
      getSelection().selectAllChildren(target)
    }
  })
}
