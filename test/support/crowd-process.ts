// Clients of all kinds that come back at once, in a process of their own, because one process may not open enough files.
import { request } from 'node:http'
import { WebSocket } from 'ws'

/** A client that comes back. */
export interface Returning {
  kind: 'websocket' | 'event stream' | 'sdk'
  channel: string
  token: string
  /** The query of its address. */
  search: string
  /** What an SDK says that it has. */
  position?: { epoch: string; offset: number }
  /** How many messages it has to get. */
  missed: number
}

export interface Order {
  port: number
  clients: Returning[]
}

type Receive = (text: string) => void

/** What each client has received. */
const received: string[][] = []
let wanted: number[] = []
/** How many clients lack messages. */
let waiting = 0

function receiver(i: number): Receive {
  const texts: string[] = []
  received[i] = texts
  return (text) => {
    texts.push(text)
    if (texts.length === wanted[i] && --waiting === 0) report()
  }
}

function report(): void {
  process.send!({ received })
}

/**
 * To be called when a connection has ended. Clients connect again if they have not been let in, because the kernel drops
 * connections if too many wait to be accepted.
 */
function ended(client: Returning, again: () => void, reason: unknown, connected: boolean): void {
  if (connected) process.send!({ failure: `${client.kind} of ${client.channel}: ${reason}` })
  else setTimeout(again, 200 * Math.random())
}

function payloadOf(text: string): string {
  const { event, payload } = JSON.parse(text)
  return event === 'HistoryGap' ? event : payload
}

const CONNECT: Record<Returning['kind'], (port: number, client: Returning, receive: Receive) => void> = {
  websocket(port, client, receive) {
    const { channel, token, search } = client
    const webSocket = new WebSocket(`ws://127.0.0.1:${port}/${channel}/${token}${search}`)
    webSocket.on('message', (data) => receive(payloadOf(String(data))))
    whenEnded(webSocket, client, () => CONNECT.websocket(port, client, receive))
  },
  'event stream'(port, client, receive) {
    const { channel, token, search } = client
    const headers = { accept: 'text/event-stream' }
    let connected = false
    request({ port, host: '127.0.0.1', path: `/${channel}/${token}${search}`, headers, agent: false })
      .on('error', (error) =>
        ended(client, () => CONNECT['event stream'](port, client, receive), error, connected)
      )
      .on('response', (response) => {
        connected = true
        let rest = ''
        response.setEncoding('utf8')
        response.on('close', () => ended(client, () => {}, 'closed', true))
        response.on('data', (chunk: string) => {
          const lines = (rest + chunk).split('\n')
          rest = lines.pop()!
          for (const line of lines) if (line.startsWith('data: ')) receive(payloadOf(line.slice(6)))
        })
      })
      .end()
  },
  sdk(port, client, receive) {
    const { channel, token, position } = client
    const webSocket = new WebSocket(`ws://127.0.0.1:${port}/connection/websocket`)
    const send = (command: object) => webSocket.send(JSON.stringify(command))
    webSocket
      .on('open', () => send({ id: 1, connect: { token } }))
      .on('message', (data) => {
        for (const line of String(data).split('\n')) {
          const { id, error, subscribe, push } = JSON.parse(line)
          if (error !== undefined) ended(client, () => {}, line, true)
          if (line === '{}') send({})
          if (id === 1) send({ id: 2, subscribe: { channel, recover: true, ...position } })
          if (id === 2 && !subscribe.recovered) receive('not recovered')
          for (const { data } of subscribe?.publications ?? []) receive(data)
          if (push?.pub !== undefined) receive(push.pub.data)
        }
      })
    whenEnded(webSocket, client, () => CONNECT.sdk(port, client, receive))
  }
}

function whenEnded(webSocket: WebSocket, client: Returning, again: () => void): void {
  let connected = false
  webSocket
    .on('open', () => (connected = true))
    .on('error', () => {})
    .on('close', (code) => ended(client, again, code, connected))
}

process.on('message', (order: Order | { more: number[] }) => {
  if ('more' in order) {
    for (const i of order.more) wanted[i]!++
    waiting = order.more.length
    return
  }
  const { port, clients } = order
  wanted = clients.map(({ missed }) => missed)
  waiting = wanted.filter((count) => count > 0).length
  for (const [i, client] of clients.entries()) CONNECT[client.kind](port, client, receiver(i))
})
process.on('disconnect', () => process.exit())
