// Three protocols for one room. Each is created with the room and with handlers: onState(kind, text), onMessage(message),
// onPeople(change). The room stores the position of the last message, so that another protocol, or the next connection,
// resumes from there.
import { base, claimsOf, namesIn, request } from './token.js'

const origin = (location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host
const ID = /^([0-9a-f]{8})-([0-9a-f]{16})$/
/** How many messages of a durable channel are shown when it is opened. */
const LAST = 50
/** The protocol's code for a channel that has no history. */
const NOT_AVAILABLE = 108
const EXPIRED = 'closed: the token has expired, get a new one'
/** The protocol's code for a token that is not signed by the server's keys. */
const INVALID_TOKEN = 3500
const MISSED = ', may have missed messages'
const RESUMED = ', resumed'

/** The id of a message for raw websockets and event streams, from the SDK's epoch and offset. */
function positionOf(id) {
  const [, epoch, digits] = ID.exec(id) ?? []
  return epoch && { epoch, offset: parseInt(digits, 16) }
}

function idOf({ epoch, offset }) {
  return offset === 0 ? 'earliest' : epoch + '-' + offset.toString(16).padStart(16, '0')
}

/** What all protocols have in common. */
class Language {
  constructor(room, handlers) {
    Object.assign(this, { room, handlers, ended: false })
  }

  /** Calls a handler, except after the end. */
  tell(handler, ...what) {
    if (!this.ended) this.handlers[handler](...what)
  }

  connected(more) {
    this.room.seen = true
    this.tell('onState', 'connected', 'connected to ' + (this.room.channel || 'all channels of the token') + more)
  }

  /** Ends for good. */
  close(text) {
    this.tell('onState', 'closed', text)
    this.end()
  }
}

/** Centrifugo's SDK, as it comes from npm: it reconnects, recovers and asks for tokens by itself. */
export class SdkLanguage extends Language {
  constructor(room, handlers) {
    super(room, handlers)
    const { channel, keeper, position } = room
    const client = (this.client = new Centrifuge(origin + base + 'connection/websocket', {
      token: keeper.token,
      getToken: () => keeper.fresh(),
      maxReconnectDelay: 5000
    }))
    client.on('connecting', ({ code, reason }) => {
      this.tell('onState', 'waiting', code === 0 ? 'connecting' : 'reconnecting (' + reason + ')')
    })
    client.on('connected', (context) => { room.client = context.client })
    client.on('disconnected', ({ code, reason }) => {
      const another = room.seen && code === INVALID_TOKEN ? ': was the server started with another secret?' : ''
      this.close(code === 1 || keeper.ended ? EXPIRED : 'closed: refused, ' + reason + another)
    })
    // A token that may only write cannot subscribe.
    if (claimsOf(keeper.token).mode === 'w') client.on('connected', () => this.connected(', to write only'))
    else this.subscribe(client.newSubscription(channel, { joinLeave: true, ...(position ? { since: position } : { getState: () => this.lastMessages() }) }))
    client.connect()
  }

  /** Shows the last messages. Resolves with the position from which the SDK continues. */
  async lastMessages() {
    const { room, client } = this
    let last
    try {
      last = await client.history(room.channel, { limit: LAST, reverse: true })
    } catch (error) {
      if (error.code !== NOT_AVAILABLE) throw error
      return { epoch: '', offset: 0 }
    }
    const { publications, epoch, offset } = last
    // The SDK calls this again if it cannot recover what it missed.
    if (room.seen) this.lost = true
    // Messages after the position are recovered.
    else for (const publication of publications.reverse()) if (publication.offset <= offset) this.show(publication)
    return { epoch, offset }
  }

  subscribe(subscription) {
    const { room } = this
    subscription.on('subscribing', ({ code, reason }) => {
      this.tell('onState', 'waiting', code === 0 ? 'connecting' : 'reconnecting (' + reason + ')')
    })
    subscription.on('subscribed', ({ wasRecovering, recovered, streamPosition }) => {
      const missed = room.seen && (this.lost || (wasRecovering ? !recovered : !room.position))
      const resumed = room.seen && wasRecovering
      this.lost = false
      room.position = streamPosition
      this.connected(missed ? MISSED : resumed ? RESUMED : '')
      subscription.presence().then(
        ({ clients }) => this.tell('onPeople', { channel: room.channel, clients: Object.values(clients) }),
        () => this.tell('onPeople', {})
      )
    })
    subscription.on('unsubscribed', ({ reason }) => this.close('closed: refused, ' + reason))
    subscription.on('publication', (publication) => {
      const { offset } = publication
      if (offset && room.position) room.position = { ...room.position, offset }
      this.show(publication)
    })
    const { channel } = room
    subscription.on('join', ({ info }) => this.tell('onPeople', { channel, joined: info }))
    subscription.on('leave', ({ info }) => this.tell('onPeople', { channel, left: info }))
    subscription.subscribe()
  }

  show(publication) {
    const { channel = this.room.channel, data, tags, info } = publication
    const claims = info && { ...info.connInfo, ...(info.user && { sub: info.user }) }
    this.tell('onMessage', { channel, payload: data, event: tags?.event, claims, raw: JSON.stringify(publication) })
  }

  /** Resolves when the server has accepted the message. */
  send(text) {
    return this.client.publish(this.room.channel, text)
  }

  end() {
    this.ended = true
    this.client.disconnect()
  }
}

/** Reconnects with a jittered exponential backoff, and resumes where the last connection ended. */
class Reconnecting extends Language {
  constructor(room, handlers) {
    super(room, handlers)
    this.failures = 0
    this.wake = () => { if (this.timer) { clearTimeout(this.timer); this.open() } }
    addEventListener('online', this.wake)
    this.open()
  }

  async open() {
    const { room } = this
    this.timer = undefined
    this.tell('onState', 'waiting', this.failures || this.again ? 'reconnecting' : 'connecting')
    room.presence ??= await hasPresence(room)
    if (this.ended) return
    const { token } = room.keeper
    const { position } = room
    const query = new URLSearchParams({ ...(position ? { since: idOf(position) } : { last: LAST }), ...(room.presence && { presence: 'true' }) })
    const path = base + (room.channel === '' ? '' : encodeURIComponent(room.channel) + '/') + token + '?' + query
    let opened = false
    this.connect(path, {
      onOpen: () => {
        opened = this.again = true
        this.failures = 0
        this.connected(position ? RESUMED : room.seen ? MISSED : '')
        if (!room.presence) this.tell('onPeople', {})
      },
      onClose: async (reason, expired) => {
        if (this.ended) return
        if (expired || room.keeper.ended) {
          if (room.keeper.ended) await room.keeper.refresh()
          if (this.ended) return
          return room.keeper.ended ? this.close(EXPIRED) : this.open()
        }
        if (!opened && (await serverAnswers())) return this.close('closed: refused, the token does not allow this channel')
        if (this.ended) return
        const pause = Math.min(500 * 2 ** this.failures++, 15000) * (0.5 + Math.random() / 2)
        this.tell('onState', 'waiting', 'reconnecting in ' + (pause / 1000).toFixed(1) + ' s (' + (reason || 'no answer') + ')')
        this.timer = setTimeout(() => this.open(), pause)
      }
    })
  }

  /** @param id the id of a durable message, if the text does not contain it */
  receive(text, id) {
    const { room } = this
    let message
    try { message = JSON.parse(text) } catch {}
    const envelope = message !== null && typeof message === 'object' ? message : {}
    // Only server events have the member `pgws`. Other messages may use the same event names.
    const { pgws: own, event, channel = room.channel, payload, claims } = envelope
    room.position = positionOf(id ?? envelope.id) ?? room.position
    if (own && event === 'HistoryGap') {
      room.position = payload.latest ? positionOf(payload.latest) : { epoch: '', offset: 0 }
      this.connected(MISSED)
    } else if (own && room.presence && event === 'Presence') {
      // For a large room, the server sends the number of members only.
      this.tell('onPeople', payload.clients ? { channel, clients: payload.clients } : {})
    }
    else if (own && room.presence && event === 'Join') this.tell('onPeople', { channel, joined: payload })
    else if (own && room.presence && event === 'Leave') this.tell('onPeople', { channel, left: payload })
    else this.tell('onMessage', { channel, payload: payload === undefined ? text : payload, event, claims, raw: text })
  }

  end() {
    this.ended = true
    clearTimeout(this.timer)
    removeEventListener('online', this.wake)
    this.disconnect?.()
  }
}

/** A raw websocket. */
export class WebSocketLanguage extends Reconnecting {
  connect(path, { onOpen, onClose }) {
    const socket = (this.socket = new WebSocket(origin + path))
    socket.binaryType = 'arraybuffer'
    socket.onopen = onOpen
    socket.onmessage = ({ data }) => {
      if (this.ended) return
      if (typeof data === 'string') this.receive(data)
      else this.tell('onMessage', { payload: data.byteLength + ' bytes', event: 'Bytes', raw: hexOf(data) })
    }
    socket.onclose = ({ code, reason }) => onClose(reason || (code === 1006 ? '' : 'code ' + code), code === 3001)
    this.disconnect = () => socket.close()
  }

  async send(text) {
    this.socket.send(text)
  }
}

/** Server-sent events, which are one-way: messages are sent with HTTP requests. */
export class EventSourceLanguage extends Reconnecting {
  connect(path, { onOpen, onClose }) {
    const events = new EventSource(path)
    let why = ''
    let expired = false
    events.onopen = onOpen
    events.onmessage = ({ data, lastEventId }) => { if (!this.ended) this.receive(data, lastEventId || undefined) }
    events.addEventListener('Bytes', ({ data, lastEventId }) => {
      if (this.ended) return
      this.room.position = positionOf(lastEventId) ?? this.room.position
      this.tell('onMessage', { payload: data, event: 'Bytes', raw: data })
    })
    events.addEventListener('Expired', () => { expired = true })
    events.addEventListener('Disconnected', ({ data }) => { why = JSON.parse(data).reason })
    // It would reconnect on its own, but with the old token in its address.
    events.onerror = () => { events.close(); onClose(why, expired) }
    this.disconnect = () => events.close()
  }

  async send(text) {
    const { channel, keeper } = this.room
    const channels = channel === '' ? namesIn(keeper.token) : [channel]
    const answer = await request(keeper.token, 'publish', { method: 'POST', body: { channels, payload: text } })
    if (!answer.ok) throw new Error((await answer.json()).message)
  }
}

/** Whether the room tracks presence: otherwise a handshake with `presence=true` is refused. Undefined: no answer. */
async function hasPresence({ channel, keeper }) {
  try {
    const names = channel === '' ? namesIn(keeper.token) : [channel]
    const path = (name) => 'channels/' + encodeURIComponent(name) + '/presence'
    const answers = await Promise.all(names.map((name) => request(keeper.token, path(name))))
    return answers.some(({ ok }) => ok) || (answers.some(({ status }) => status >= 500 || status === 429) ? undefined : false)
  } catch {
    return undefined
  }
}

async function serverAnswers() {
  try {
    return (await fetch(base + 'health/live')).ok
  } catch {
    return false
  }
}

function hexOf(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join(' ')
}
