const { Centrifuge } = globalThis
const element = (id) => document.getElementById(id)

const getToken = async () => (await fetch('/token')).text()
const client = new Centrifuge(`${location.origin.replace('http', 'ws')}/connection/websocket`, { getToken })
client.on('state', ({ newState }) => {
  element('state').textContent = newState
})
const chat = client.newSubscription('chat')
chat.on('publication', ({ data }) => {
  const item = document.createElement('li')
  // Text, never HTML: it comes from other users.
  item.textContent = data
  element('messages').append(item)
})
chat.subscribe()
client.connect()

element('send').addEventListener('submit', async (event) => {
  event.preventDefault()
  const text = element('text').value
  await chat.publish(text)
  // What was written in the meantime is the next message.
  if (element('text').value === text) element('text').value = ''
})
