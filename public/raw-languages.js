// A raw websocket and server-sent events, which have the same addresses and messages.
import { pauseAfter } from './backoff.js'
import { openEventStream } from './event-stream.js'
import {
  disconnectedText, EXPIRED, idOf, isTemporary, LAST, Language, MISSED, origin, positionOf, presenceOf, refusalOf, RESUMED
} from './language.js'
import { base, claimsOf, namesIn, ownerOf, request } from './token.js'

/** Reconnects with a jittered exponential backoff, and resumes where the last connection ended. */
class Reconnecting extends Language {
  constructor(room, handlers) {
    super(room, handlers)
    this.failures = 0
    this.wake = () => {
      if (this.timer && !document.hidden) {
        clearTimeout(this.timer)
        this.open()
      }
    }
    addEventListener('online', this.wake)
    // Timers of hidden tabs may be a minute late.
    document.addEventListener('visibilitychange', this.wake)
    this.open()
  }

  async open() {
    const { room } = this
    this.timer = undefined
    this.tell('onState', 'waiting', this.failures || this.again ? 'reconnecting' : 'connecting')
    if (room.presence === undefined) {
      const { presence, refusal } = await presenceOf(room)
      if (this.ended) return
      if (refusal && !room.keeper.ended && !this.writesOnly) return this.refuse(refusal)
      room.presence = presence
    }
    const { token } = room.keeper
    const { position } = room
    const since = position && idOf(position)
    const query = new URLSearchParams({ ...(since ? { since } : { last: LAST }), ...(room.presence && { presence: 'true' }) })
    const address = base + (room.channel === '' ? '' : encodeURIComponent(room.channel) + '/')
    let opened = false
    this.connect({ address, token, query, since }, {
      onOpen: () => {
        opened = this.again = true
        this.failures = 0
        this.connected(!room.seen ? '' : position ? RESUMED : MISSED)
        if (!room.presence) this.tell('onPeople', {})
      },
      onClose: async ({ reason, expired, final }) => {
        if (this.ended) return
        if (final) return this.close(final)
        if (expired || room.keeper.ended) {
          if (room.keeper.ended) await room.keeper.refresh()
          if (this.ended) return
          return room.keeper.ended ? this.close(EXPIRED) : this.open()
        }
        const refusal = opened ? undefined : await refusalOf(room)
        if (this.ended) return
        if (refusal) return this.refuse(refusal)
        const pause = pauseAfter(this.failures++)
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
    const position = positionOf(id ?? envelope.id)
    room.position = position ?? room.position
    if (own && event === 'HistoryGap') {
      room.position = payload.latest ? positionOf(payload.latest) : { epoch: '', offset: 0 }
      this.connected(MISSED)
    } else if (own && room.presence && event === 'Presence') {
      if (payload.you) room.client = payload.you
      // For a large room, the server sends the number of members only.
      this.tell('onPeople', payload.clients ? { channel, clients: payload.clients } : {})
    }
    else if (own && room.presence && event === 'Join') this.tell('onPeople', { channel, joined: payload })
    else if (own && room.presence && event === 'Leave') this.tell('onPeople', { channel, left: payload })
    else {
      const shown = payload === undefined ? text : payload
      this.tell('onMessage', { channel, payload: shown, event, claims, id: position && idOf(position), raw: text })
    }
  }

  end() {
    this.ended = true
    clearTimeout(this.timer)
    removeEventListener('online', this.wake)
    document.removeEventListener('visibilitychange', this.wake)
    this.disconnect?.()
  }
}

/** A raw websocket. */
export class WebSocketLanguage extends Reconnecting {
  get writesOnly() {
    return claimsOf(this.room.keeper.token).mode === 'w'
  }

  connect({ address, token, query }, { onOpen, onClose }) {
    const socket = (this.socket = new WebSocket(origin + address + token + '?' + query))
    socket.binaryType = 'arraybuffer'
    socket.onopen = onOpen
    socket.onmessage = ({ data }) => {
      if (this.ended) return
      if (typeof data === 'string') this.receive(data)
      else this.tell('onMessage', { payload: data.byteLength + ' bytes', event: 'Bytes', raw: hexOf(data) })
    }
    socket.onclose = ({ code, reason }) => onClose({
      reason: reason || (code === 1006 ? '' : 'code ' + code),
      expired: code === 3001,
      final: code >= 3000 && !isTemporary(code) ? disconnectedText(reason) : undefined
    })
    this.disconnect = () => socket.close()
  }

  textOf(text) {
    return text
  }

  async send(text) {
    this.socket.send(text)
  }
}

/** Server-sent events, which are one-way: messages are sent with HTTP requests. */
export class EventSourceLanguage extends Reconnecting {
  connect({ address, token, query, since }, { onOpen, onClose }) {
    const { room } = this
    const url = new URL(address + token + '?' + query, location.href).href
    // Only a token that the server has accepted joins the stream of another tab.
    const key = room.presence === undefined ? undefined : JSON.stringify([address, room.presence, ownerOf(token)])
    const events = openEventStream(url, { key, since, last: LAST })
    let final
    let expired = false
    events.addEventListener('open', onOpen)
    events.addEventListener('message', ({ data, lastEventId }) => {
      if (!this.ended) this.receive(data, lastEventId || undefined)
    })
    events.addEventListener('Bytes', ({ data, lastEventId }) => {
      if (this.ended) return
      const position = positionOf(lastEventId)
      room.position = position ?? room.position
      this.tell('onMessage', { payload: data, event: 'Bytes', id: position && lastEventId, raw: data })
    })
    events.addEventListener('Expired', () => { expired = true })
    events.addEventListener('Disconnected', ({ data }) => {
      const { code, reason } = JSON.parse(data)
      if (!isTemporary(code)) final = disconnectedText(reason)
    })
    // It would reconnect on its own, but with the old token in its address.
    events.addEventListener('error', ({ data }) => {
      events.close()
      onClose({ reason: '', expired, final: final ?? data })
    })
    this.disconnect = () => events.close()
  }

  body(text) {
    const { channel, keeper } = this.room
    return { channels: channel === '' ? namesIn(keeper.token) : [channel], payload: text }
  }

  textOf(text) {
    return JSON.stringify(this.body(text))
  }

  async send(text) {
    const answer = await request(this.room.keeper.token, 'publish', { method: 'POST', body: this.body(text) })
    if (!answer.ok) throw new Error((await answer.json()).message)
  }
}

function hexOf(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join(' ')
}
