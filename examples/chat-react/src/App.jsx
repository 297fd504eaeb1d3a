import { useState } from 'react'
import { useRoom } from './useRoom.js'

export function App() {
  const [name, setName] = useState()
  if (name) return <Chat name={name} />
  return (
    <form action={(data) => setName(data.get('name'))}>
      <input name="name" placeholder="Your name" aria-label="Your name" maxLength={32} required />
      <button type="submit">Join</button>
    </form>
  )
}

function Chat({ name }) {
  const { state, messages, members, publish } = useRoom('room:lobby', name)
  return (
    <main>
      <p>
        {state}, with {members.join(', ')}
      </p>
      <ol>
        {messages.map(({ offset, info, data }) => (
          <li key={offset}>
            <b>{info?.user}</b> {data}
          </li>
        ))}
      </ol>
      {/* The action does not wait: React empties the form when an action ends, and by then the next message may be in it. */}
      <form action={(data) => void publish(data.get('text'))}>
        <input name="text" placeholder="Message" aria-label="Message" autoComplete="off" required />
        <button type="submit">Send</button>
      </form>
    </main>
  )
}
