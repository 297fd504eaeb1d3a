const { Centrifuge } = globalThis
const element = (id) => document.getElementById(id)

async function getToken() {
  const response = await fetch('/token')
  // The session has ended: the SDK must not try again.
  if (response.status === 401) throw new Centrifuge.UnauthorizedError('logged out')
  if (!response.ok) throw new Error(`status ${response.status}`)
  return response.text()
}

function show(room, { data, info }) {
  const item = document.createElement('li')
  // Text, never HTML: it comes from other users.
  item.textContent = `${room} · ${info?.user}: ${data}`
  element('messages').append(item)
}

function chat({ name, rooms }) {
  element('login').hidden = true
  element('chat').hidden = false
  element('name').textContent = name
  const client = new Centrifuge(`${location.origin.replace('http', 'ws')}/connection/websocket`, { getToken })
  const subscriptions = new Map()
  for (const room of rooms) {
    element('room').append(new Option(room))
    const subscription = client.newSubscription(`room:${room}`)
    subscription.on('publication', (publication) => show(room, publication))
    subscription.subscribe()
    subscriptions.set(room, subscription)
  }
  client.on('disconnected', () => location.reload())
  client.connect()

  element('send').addEventListener('submit', async (event) => {
    event.preventDefault()
    const text = element('text').value
    await subscriptions.get(element('room').value).publish(text)
    // What was written in the meantime is the next message.
    if (element('text').value === text) element('text').value = ''
  })
  element('logout').addEventListener('click', async () => {
    await fetch('/logout', { method: 'POST' })
    location.reload()
  })
}

element('login').addEventListener('submit', async (event) => {
  event.preventDefault()
  const response = await fetch('/login', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(Object.fromEntries(new FormData(event.target)))
  })
  const answer = await response.json()
  if (response.ok) chat(answer)
  else element('error').textContent = answer.error
})

const me = await fetch('/me')
if (me.ok) chat(await me.json())
else element('login').hidden = false
