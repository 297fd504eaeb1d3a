import { RECONNECT_DELAYS } from './backoff.js'
import { disconnectedText, EXPIRED, idOf, LAST, Language, MISSED, origin, refusalOf, RESUMED } from './language.js'
import { base, claimsOf } from './token.js'

/** Codes of Centrifugo's protocol: a token that does not allow it, a channel without history, an operator's disconnect. */
const PERMISSION_DENIED = 103
const NOT_AVAILABLE = 108
const FORCED_DISCONNECT = 3503
/** The SDK's own code for a token that cannot be renewed. */
const UNAUTHORIZED = 1

/** Centrifugo's SDK, as it comes from npm: it reconnects, recovers and asks for tokens by itself. */
export class SdkLanguage extends Language {
  constructor(room, handlers) {
    super(room, handlers)
    const { channel, keeper, position } = room
    const client = (this.client = new Centrifuge(origin + base + 'connection/websocket', {
      token: keeper.token,
      getToken: () => keeper.fresh(),
      ...RECONNECT_DELAYS
    }))
    client.on('connecting', ({ code, reason }) => {
      this.tell('onState', 'waiting', code === 0 ? 'connecting' : 'reconnecting (' + reason + ')')
    })
    client.on('connected', (context) => { room.client = context.client })
    client.on('disconnected', ({ code, reason }) => this.disconnected(code, reason))
    // A token that may only write cannot subscribe.
    if (claimsOf(keeper.token).mode === 'w') client.on('connected', () => this.connected(', to write only'))
    else this.subscribe(client.newSubscription(channel, { joinLeave: true, ...(position ? { since: position } : { getState: () => this.lastMessages() }) }))
    client.connect()
  }

  async disconnected(code, reason) {
    if (this.ended) return
    if (code === UNAUTHORIZED || this.room.keeper.ended) return this.close(EXPIRED)
    if (code === FORCED_DISCONNECT || code >= 4500 || /revoked/i.test(reason)) return this.close(disconnectedText(reason))
    const refusal = await refusalOf(this.room)
    this.refuse(refusal ?? { message: reason })
  }

  /** Shows the last messages. Resolves with the position from which the SDK continues. */
  async lastMessages() {
    const { room, client } = this
    let last
    try {
      last = await client.history(room.channel, { limit: LAST, reverse: true })
    } catch (error) {
      // The SDK would try again.
      if (error.code === PERMISSION_DENIED) this.refuse((await refusalOf(room)) ?? error)
      if (error.code !== NOT_AVAILABLE) throw error
      return { epoch: '', offset: 0 }
    }
    const { publications, epoch, offset } = last
    // The SDK calls this again if it cannot recover what it missed.
    if (room.seen) this.lost = true
    // Messages after the position are recovered.
    else for (const publication of publications.reverse()) if (publication.offset <= offset) this.show(publication, epoch)
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
    subscription.on('unsubscribed', async ({ reason }) => {
      if (!this.ended) this.refuse((await refusalOf(room)) ?? { message: reason })
    })
    subscription.on('publication', (publication) => {
      const { offset } = publication
      if (offset && room.position) room.position = { ...room.position, offset }
      this.show(publication, room.position?.epoch)
    })
    const { channel } = room
    subscription.on('join', ({ info }) => this.tell('onPeople', { channel, joined: info }))
    subscription.on('leave', ({ info }) => this.tell('onPeople', { channel, left: info }))
    subscription.subscribe()
  }

  show(publication, epoch) {
    const { channel = this.room.channel, data, tags, info, offset } = publication
    const claims = info && { ...info.connInfo, ...(info.user && { sub: info.user }) }
    const id = offset && epoch ? idOf({ epoch, offset }) : undefined
    this.tell('onMessage', { channel, payload: data, event: tags?.event, claims, id, raw: JSON.stringify(publication) })
  }

  /** How many bytes a message takes on its way to the server. */
  textOf(text) {
    return JSON.stringify({ id: 1e9, publish: { channel: this.room.channel, data: text } })
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
