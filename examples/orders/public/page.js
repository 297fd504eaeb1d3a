const { Centrifuge } = globalThis
const table = document.getElementById('orders')

const send = (method, path, body) =>
  fetch(path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })

function show({ id, item, state }) {
  const row = document.getElementById(`order-${id}`) ?? table.insertRow()
  row.id = `order-${id}`
  const choice = document.createElement('select')
  for (const name of ['new', 'paid', 'shipped']) choice.append(new Option(name, name, false, name === state))
  choice.addEventListener('change', () => send('PATCH', `/orders/${id}`, { state: choice.value }))
  // Text, never HTML: it comes from other users.
  row.replaceChildren(...[id, item, choice].map(cell))
}

function cell(content) {
  const td = document.createElement('td')
  td.append(content)
  return td
}

function apply({ operation, record, old_record }) {
  if (operation === 'DELETE') document.getElementById(`order-${old_record.id}`)?.remove()
  else show(record)
}

// Changes that arrive while the table is loaded wait for it.
let loaded
async function load() {
  const response = await fetch('/orders')
  if (!response.ok) throw new Error(`status ${response.status}`)
  const orders = await response.json()
  table.replaceChildren()
  for (const order of orders) show(order)
}

const getToken = async () => (await fetch('/token')).text()
const client = new Centrifuge(`${location.origin.replace('http', 'ws')}/connection/websocket`, { getToken })
const changes = client.newSubscription('orders')
changes.on('subscribed', ({ wasRecovering, recovered }) => {
  // After an interruption, the missed changes arrive by themselves, unless they are older than an hour.
  if (!(wasRecovering && recovered)) loaded = load()
})
changes.on('publication', ({ data }) => {
  loaded = loaded.then(() => apply(data))
})
changes.subscribe()
client.connect()

document.getElementById('order').addEventListener('submit', async (event) => {
  event.preventDefault()
  const input = document.getElementById('item')
  const item = input.value
  await send('POST', '/orders', { item })
  // What was written in the meantime is the next order.
  if (input.value === item) input.value = ''
})
