// Honest clients beside the strangers. Each must receive every message in order.
import { once } from 'node:events'
import { get } from 'node:http'
import { Centrifuge } from 'centrifuge'
import { io as connect } from 'socket.io-client'
import { WebSocket } from 'ws'
import { Emitter } from '../../dist/emitter.js'
import { deadline, until } from './target.js'
import { CHANNELS, LISTEN_CHANNEL, token, tokens } from './values.js'

const CHANNEL = 'witness'
const KEPT = 'kept-witness'
const reader = token({ mode: 'r', channels: [CHANNEL, KEPT], sub: 'witness' })
const writer = token({ mode: 'rw', channels: [CHANNEL, KEPT], sub: 'witness' })

/** How often messages are published again if witnesses were told that some are missing. */
const ATTEMPTS = 3

/** One client of one protocol. It keeps the messages that it receives. */
class Witness {
  got = []
  /**
   * The gaps of which the server told it. They are no messages. The actions change and delete stored messages as the
   * owner of the tables, and so does `restoreRows`. A server that replays meanwhile must say that messages are missing.
   */
  gaps = []
  closed = undefined
  constructor(name, wanted) {
    this.name = name
    /** The channels whose messages it receives. */
    this.wanted = wanted
  }

  begin() {
    this.got = []
    this.gaps = []
  }

  /** Takes a message of a protocol without subscriptions. Strangers cannot publish one with a member `pgws`. */
  take(text) {
    const message = JSON.parse(text)
    if (message.pgws === true && message.event === 'HistoryGap') this.gaps.push(message)
    else this.got.push(message.pgws === true ? message : message.payload)
  }

  toString() {
    const told = this.gaps.length === 0 ? '' : `, and was told of ${JSON.stringify(this.gaps)}`
    return `${this.name} got ${JSON.stringify(this.got)}${told}`
  }
}

export class Witnesses {
  #target
  #all = []
  #ends = []
  #sender
  #emitter
  #count = 0
  #left = []

  static async open(target) {
    const witnesses = new Witnesses()
    witnesses.#target = target
    await witnesses.#open()
    return witnesses
  }

  /** The strangers' readers that the server has closed. */
  get left() {
    return this.#left
  }

  /**
   * Publishes in every way, and waits for it.
   * @returns the number of messages
   * @throws Error if a witness did not receive exactly what was published, or was closed
   */
  async check() {
    for (let attempt = 1; ; attempt++) {
      for (const witness of this.#all) witness.begin()
      const sent = await this.#publishAll()
      const short = await this.#missing(sent)
      if (short === undefined) return Object.values(sent).flat().length
      // It was told that messages are missing, so they may be.
      if (short.gaps.length === 0 || attempt === ATTEMPTS) {
        throw new Error(`${short} of ${JSON.stringify(wantedBy(short, sent))}`)
      }
    }
  }

  /** @returns the texts that were published, by channel */
  async #publishAll() {
    const sent = { [CHANNEL]: [], [KEPT]: [], io: [] }
    const next = (channel) => {
      const text = `message ${++this.#count}`
      sent[channel].push(text)
      return text
    }
    for (const channel of [CHANNEL, KEPT]) {
      await this.#publish(channel, next(channel))
      await this.#target.pool.query(
        channel === KEPT
          ? 'select pgws.publish_text($1, $2)'
          : "select pg_notify($3, json_build_object('channel', $1::text, 'payload', $2::text)::text)",
        channel === KEPT ? [channel, next(channel)] : [channel, next(channel), LISTEN_CHANNEL]
      )
      await this.#publish(channel, next(channel))
    }
    this.#sender.send(next(CHANNEL))
    this.#emitter.emit('n', next('io'))
    this.#emitter.emit('n', next('io'))
    return sent
  }

  /**
   * @returns a witness that did not receive everything; undefined if there is none
   * @throws Error if one was closed, or received anything else, or in another order
   */
  async #missing(sent) {
    for (const witness of this.#all) {
      const wanted = wantedBy(witness, sent)
      const missing = () => `${witness} of ${JSON.stringify(wanted)}`
      try {
        await until(() => {
          if (witness.closed !== undefined) throw new Error(`${witness.name} was closed: ${witness.closed}`)
          return witness.got.length >= wanted.length
        }, 'every message')
      } catch (error) {
        this.#target.check()
        if (witness.closed !== undefined) throw new Error(missing(), { cause: error })
        return witness
      }
      for (const channel of witness.wanted) {
        const ours = witness.got.filter((text) => sent[channel].includes(text))
        if (ours.join() !== sent[channel].join()) throw new Error(`not in order: ${missing()}`)
      }
      if (witness.got.length > wanted.length) throw new Error(`more than was sent: ${missing()}`)
    }
    return undefined
  }

  async close() {
    for (const end of this.#ends) await end()
    this.#ends = []
    this.#all = []
  }

  async #publish(channel, payload) {
    const { http } = this.#target
    const response = await fetch(`${http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${writer}`, 'content-type': 'application/json' },
      body: JSON.stringify({ channel, payload }),
      signal: AbortSignal.timeout(deadline.milliseconds)
    })
    const answer = await response.text()
    if (response.status !== 202)
      throw new Error(`an honest publish was answered ${response.status}: ${answer}`)
  }

  #add(name, wanted) {
    const witness = new Witness(name, wanted)
    this.#all.push(witness)
    return witness
  }

  async #open() {
    const { http, port, socketIoPort, pool } = this.#target
    const ws = `ws://127.0.0.1:${port}`

    const plain = this.#add('the websocket', [CHANNEL, KEPT])
    const socket = new WebSocket(`${ws}/${reader}`)
    socket.on('message', (data) => plain.take(data))
    socket.on('close', (code) => (plain.closed = code))
    socket.on('error', () => {})
    await once(socket, 'open')
    this.#sender = new WebSocket(`${ws}/${CHANNEL}/${writer}`)
    this.#sender.on('error', () => {})
    await once(this.#sender, 'open')

    const events = this.#add('the event stream', [CHANNEL, KEPT])
    const request = get(`${http}/${reader}`, { headers: { accept: 'text/event-stream' }, agent: false })
    const [response] = await once(request, 'response')
    let rest = ''
    response.setEncoding('utf8').on('data', (chunk) => {
      const blocks = (rest + chunk).split('\n\n')
      rest = blocks.pop()
      for (const block of blocks) {
        const data = /^data: (.*)$/m.exec(block)?.[1]
        if (data !== undefined) events.take(data)
      }
    })
    response.on('close', () => (events.closed = 'ended'))
    response.on('error', () => {})

    const sdk = this.#add('the SDK', [CHANNEL, KEPT])
    const client = new Centrifuge(`${ws}/connection/websocket`, { token: reader, websocket: WebSocket })
    client.on('disconnected', ({ code, reason }) => (sdk.closed = `${code} ${reason}`))
    const subscriptions = [CHANNEL, KEPT].map((name) => client.newSubscription(name))
    for (const subscription of subscriptions) {
      subscription.on('publication', ({ data }) => sdk.got.push(data))
      // After a gap, the server ends the subscription. The SDK subscribes again, and learns what it could not recover.
      subscription.on('subscribed', ({ channel, wasRecovering, recovered }) => {
        if (wasRecovering && !recovered) sdk.gaps.push({ channel })
      })
      subscription.on('unsubscribed', ({ code, reason }) => (sdk.closed = `${code} ${reason}`))
      subscription.subscribe()
    }
    client.connect()
    await Promise.all(subscriptions.map((subscription) => subscription.ready(deadline.milliseconds)))

    const socketIo = this.#add('the Socket.IO client', ['io'])
    const io = connect(`http://127.0.0.1:${socketIoPort}`, { transports: ['websocket'], forceNew: true })
    io.on('n', (text) => socketIo.got.push(text))
    io.on('disconnect', (reason) => (socketIo.closed = reason))
    await once(io, 'connect')
    this.#emitter = new Emitter(pool, '/', { errorHandler: (error) => console.error(error) })
    await this.#standBy()
    this.#ends.push(
      () => socket.terminate(),
      () => this.#sender.terminate(),
      () => request.destroy(),
      () => client.disconnect(),
      () => io.disconnect()
    )
  }

  /** Readers of the strangers' channels, in every protocol, so that all messages are encoded for somebody. */
  async #standBy() {
    const { http, port } = this.#target
    const ws = `ws://127.0.0.1:${port}`
    const client = new Centrifuge(`${ws}/connection/websocket`, { token: tokens.r, websocket: WebSocket })
    for (const channel of CHANNELS) client.newSubscription(channel).subscribe()
    client.on('connecting', ({ code, reason }) => {
      if (code !== 0) this.#left.push(`the SDK: ${code} ${reason}`)
    })
    client.on('disconnected', ({ code, reason }) => this.#left.push(`the SDK: ${code} ${reason}`))
    client.on('error', ({ error }) => this.#left.push(`the SDK: ${error.code} ${error.message}`))
    client.on('publication', () => {})
    client.connect()
    await client.ready(deadline.milliseconds)
    for (const channel of CHANNELS) {
      const presence = channel.startsWith('room:') ? '?presence=true' : ''
      const path = `${encodeURIComponent(channel)}/${tokens.r}${presence}`
      const socket = new WebSocket(`${ws}/${path}`)
      socket.on('error', () => {})
      socket.on('close', (code) => this.#left.push(`the websocket of ${channel}: ${code}`))
      await once(socket, 'open')
      const request = get(`${http}/${path}`, { headers: { accept: 'text/event-stream' }, agent: false })
      request.on('error', () => {})
      const [response] = await once(request, 'response')
      response.on('error', () => {}).resume()
      response.on('close', () => this.#left.push(`the event stream of ${channel}`))
      this.#ends.push(
        () => socket.terminate(),
        () => request.destroy()
      )
    }
    const audience = new WebSocket(`${ws}/ws`)
    audience.on('error', () => {})
    audience.on('close', (code) => this.#left.push(`the websocket of the audience: ${code}`))
    await once(audience, 'open')
    this.#ends.push(
      () => client.disconnect(),
      () => audience.terminate()
    )
  }
}

/** The texts that a witness receives. */
function wantedBy(witness, sent) {
  return witness.wanted.flatMap((channel) => sent[channel])
}
