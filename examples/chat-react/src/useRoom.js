import { Centrifuge } from 'centrifuge'
import { useEffect, useRef, useState } from 'react'

/**
 * Joins a room for as long as the component is shown.
 * @returns the state of the subscription, the messages, the names of the members, and a function that publishes
 */
export function useRoom(channel, name) {
  const [state, setState] = useState('connecting')
  const [messages, setMessages] = useState([])
  const [members, setMembers] = useState([])
  const room = useRef()

  useEffect(() => {
    // The SDK asks for a new token before the old one expires.
    const getToken = async () => {
      const response = await fetch('/token', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ name })
      })
      if (!response.ok) throw new Error(`status ${response.status}`)
      return response.text()
    }
    const client = new Centrifuge(`${location.origin.replace('http', 'ws')}/connection/websocket`, {
      getToken
    })
    const subscription = client.newSubscription(channel, { joinLeave: true })
    const loadMembers = async () => {
      const { clients } = await subscription.presence()
      setMembers([...new Set(Object.values(clients).map(({ user }) => user))].sort())
    }
    // Where the connection breaks before the answer, `subscribed` comes again.
    const refresh = () => loadMembers().catch(() => {})
    subscription.on('state', ({ newState }) => setState(newState))
    subscription.on('join', refresh).on('leave', refresh)
    subscription.on('publication', (message) => setMessages((before) => [...before, message]))
    subscription.on('subscribed', async ({ wasRecovering, recovered }) => {
      refresh()
      // What was missed arrives by itself.
      if (wasRecovering && recovered) return
      const { publications } = await subscription.history({ limit: 50, reverse: true })
      const stored = publications.reverse()
      // Some may have arrived while the history was on its way.
      setMessages((before) => [
        ...stored,
        ...before.filter(({ offset }) => !(offset <= stored.at(-1)?.offset))
      ])
    })
    subscription.subscribe()
    client.connect()
    room.current = subscription
    return () => client.disconnect()
  }, [channel, name])

  return { state, messages, members, publish: (text) => room.current.publish(text) }
}
