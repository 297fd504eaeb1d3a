const socket = globalThis.io({ transports: ['websocket'] })

socket.on('message', ({ text, node }) => {
  const item = document.createElement('li')
  // Text, never HTML: it comes from other users.
  item.textContent = `${text} (sent at node ${node})`
  document.getElementById('messages').append(item)
})

document.getElementById('send').addEventListener('submit', (event) => {
  event.preventDefault()
  const text = document.getElementById('text')
  socket.emit('message', text.value)
  text.value = ''
})
