'use strict'
// A shared worker that keeps the event streams of all tabs: those that read the same share one stream. The stream is the
// worker's, so it stays open when the tab that was first is closed. A tab that joins gets what it has missed from the
// messages that the worker remembers, by their ids.

/** Of six connections that HTTP/1.1 browsers open to a server, two are left for requests and for other pages. */
const MAX_STREAMS = 4
const FULL = 'closed: this browser has ' + MAX_STREAMS + ' event streams to this server, and over HTTP/1.1 a browser opens six connections at most. Close a window, or connect with the SDK or a WebSocket.'
/** What is remembered of each stream, so that a tab can join: messages, and characters of all together. */
const MAX_REMEMBERED = 1000
const MAX_CHARACTERS = 4e6
/** For how long the messages of a stream that broke are remembered, in milliseconds. */
const FORGOTTEN_AFTER = 300000
/** How often tabs are asked whether they are there, in milliseconds, and how many questions they may leave unanswered. */
const PING_INTERVAL = 20000
const MAX_UNANSWERED = 3

/** By key. */
const streams = new Map()
let copies = 0

class Stream {
  constructor(key) {
    Object.assign(this, { key, tabs: new Set() })
  }

  /** @param since the id after which it begins; undefined: it begins with the `last` messages */
  open({ url, since, last }) {
    // After a reconnect, it continues where it ended.
    if (this.remembered === undefined || since === undefined || since !== this.lastId) {
      Object.assign(this, { start: since, last, remembered: [], characters: 0, trimmed: false, lastId: since })
    }
    this.presence = new Map()
    this.opened = false
    const source = (this.source = new EventSource(url))
    source.onopen = () => {
      this.opened = true
      this.toAll(['open'])
    }
    source.onmessage = ({ data, lastEventId }) => this.take('message', data, lastEventId)
    source.addEventListener('Bytes', ({ data, lastEventId }) => this.take('Bytes', data, lastEventId))
    for (const type of ['Expired', 'Disconnected']) source.addEventListener(type, ({ data }) => this.toAll([type, data]))
    // Each tab reconnects by itself, with its own token. The first one opens the next stream.
    source.onerror = () => {
      this.end()
      this.toAll(['error'])
      this.tabs.clear()
      setTimeout(() => this.forget(), FORGOTTEN_AFTER)
    }
  }

  end() {
    this.source?.close()
    this.source = undefined
    this.opened = false
  }

  take(type, data, id) {
    if (type === 'message' && data.includes('"pgws":true')) this.readServerEvent(data)
    if (id) this.remember([type, data, id], id)
    this.toAll([type, data, id])
  }

  remember(event, id) {
    this.lastId = id
    this.remembered.push({ event, id })
    this.characters += event[1].length
    while (this.remembered.length > MAX_REMEMBERED || (this.characters > MAX_CHARACTERS && this.remembered.length > 1)) {
      this.characters -= this.remembered.shift().event[1].length
      this.trimmed = true
    }
  }

  /** Keeps the members of each channel, for tabs that join. */
  readServerEvent(data) {
    let message
    try { message = JSON.parse(data) } catch {}
    if (message?.pgws !== true) return
    const { event, channel, payload } = message
    const members = this.presence.get(channel)
    if (event === 'Presence') this.presence.set(channel, payload)
    else if (event === 'HistoryGap' && payload.latest) this.remember(['message', data, ''], payload.latest)
    else if ((event === 'Join' || event === 'Leave') && members?.clients) {
      members.clients = members.clients.filter(({ client }) => client !== payload.client)
      if (event === 'Join') members.clients.push(payload)
    }
  }

  /** What a tab misses; undefined if that is no longer known. */
  missedBy({ since, last }) {
    if (since !== undefined) {
      if (since === this.start && !this.trimmed) return this.remembered
      const index = this.remembered.findIndex(({ id }) => id === since)
      return index === -1 ? undefined : this.remembered.slice(index + 1)
    }
    const messages = this.remembered.filter(({ event: [, , id] }) => id)
    const complete = !this.trimmed && (this.start === 'earliest' || (this.start === undefined && this.last >= last))
    return messages.length >= last || complete ? messages.slice(-last) : undefined
  }

  join(tab, missed) {
    this.tabs.add(tab)
    tab.stream = this
    if (!this.opened) return
    tab.post(['open'])
    for (const { event } of missed) tab.post(event)
    for (const [channel, payload] of this.presence) {
      tab.post(['message', JSON.stringify({ pgws: true, event: 'Presence', channel, payload })])
    }
  }

  leave(tab) {
    if (!this.tabs.delete(tab) || this.tabs.size > 0) return
    this.end()
    this.forget()
  }

  forget() {
    if (this.source === undefined && streams.get(this.key) === this) streams.delete(this.key)
  }

  toAll(event) {
    for (const tab of this.tabs) tab.post(event)
  }
}

/** A tab's end of a stream. */
class Tab {
  constructor(port) {
    this.port = port
    this.unanswered = 0
    port.onmessage = ({ data }) => {
      if (data === 'pong') this.unanswered = 0
      else this.leave()
    }
    // Where browsers have this event, a tab that crashed is noticed at once.
    port.addEventListener('close', () => this.leave())
    this.timer = setInterval(() => {
      if (this.unanswered++ < MAX_UNANSWERED) return this.post(['ping'])
      // A tab that was frozen reads this when it continues, and opens its stream again.
      this.post(['error'])
      this.leave()
    }, PING_INTERVAL)
  }

  post(event) {
    this.port.postMessage(event)
  }

  leave() {
    clearInterval(this.timer)
    this.stream?.leave(this)
    this.stream = undefined
  }
}

function open(request, tab) {
  const { key, limited } = request
  let stream = streams.get(key)
  if (stream?.source) {
    const missed = stream.missedBy(request)
    if (missed) return stream.join(tab, missed)
    // The tab needs messages that are no longer known here: it gets a stream of its own.
    stream = new Stream(key + ' ' + ++copies)
  }
  const count = [...streams.values()].filter(({ source }) => source).length
  if (limited && count >= MAX_STREAMS) {
    tab.post(['error', FULL])
    return tab.leave()
  }
  stream ??= new Stream(key)
  streams.set(stream.key, stream)
  stream.join(tab, [])
  stream.open(request)
}

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data, ports: [own] }) => open(data, new Tab(own))
}
