// What the protocols of a room have in common. Each is created with the room and with handlers: onState(kind, text),
// onMessage(message), onPeople(change). The room stores the position of the last message, so that another protocol, or the
// next connection, resumes from there.
import { base, claimsOf, namesIn, request } from './token.js'

export const origin = (location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host
/** How many messages of a durable channel are shown when it is opened. */
export const LAST = 50
export const EXPIRED = 'closed: the token has expired, get a new one'
export const MISSED = ', may have missed messages'
export const RESUMED = ', resumed'

const ID = /^([0-9a-f]{8})-([0-9a-f]{16})$/

/** The SDK's epoch and offset, from the id of a message on raw websockets and event streams. */
export function positionOf(id) {
  const [, epoch, digits] = ID.exec(id) ?? []
  return epoch && { epoch, offset: parseInt(digits, 16) }
}

/** The reverse of `positionOf`. */
export function idOf({ epoch, offset }) {
  return offset === 0 ? 'earliest' : epoch + '-' + offset.toString(16).padStart(16, '0')
}

/** Whether a client reconnects after this close code, as Centrifugo's SDK decides. 3000 is that of an operator. */
export const isTemporary = (code) => code !== 3000 && !(code >= 3500 && code < 4000) && !(code >= 4500 && code < 5000)

/** What the page says to a client that was disconnected for good. */
export function disconnectedText(reason) {
  if (/revoked/i.test(reason)) return 'closed: the token was revoked, get a new one'
  const why = reason && reason !== 'disconnected' ? ', who says: ' + reason : ''
  return 'closed: disconnected by an operator' + why
}

export class Language {
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

  /** Ends because the server refuses the token, with the server's own words. */
  refuse({ status, message }) {
    const secret = this.room.seen && status === 401 ? '. Was the server started with another secret?' : ''
    this.close('refused: ' + message.replace(/^Error: /, '') + secret)
  }
}

const isRefused = ({ status }) => status >= 400 && status < 500 && status !== 404 && status !== 429

/** The status of an answer, and its message if it is an error. */
async function answerOf(response) {
  if (response.ok) return { status: response.status }
  const { message } = await response.json().catch(() => ({}))
  return { status: response.status, message: message ?? 'HTTP status ' + response.status }
}

/**
 * Why the server refuses a room; undefined if it does not, or does not answer. A browser is not told why a websocket or an
 * event stream was refused, so this asks once more, by a request that can be read.
 */
export async function refusalOf({ channel, keeper }) {
  const abort = new AbortController()
  const query = new URLSearchParams(channel === '' ? '' : { channel })
  try {
    const headers = { accept: 'text/event-stream', authorization: 'Bearer ' + keeper.token }
    const response = await fetch(base + '?' + query, { headers, signal: abort.signal })
    const answer = response.ok ? { status: 200 } : await answerOf(response)
    // A token that may only write has no event stream.
    const writes = claimsOf(keeper.token).mode === 'w' && answer.status === 403
    return isRefused(answer) && !writes ? answer : answer.status === 501 ? answer : undefined
  } catch {
    return undefined
  } finally {
    abort.abort()
  }
}

/**
 * Whether a room tracks presence, because a handshake with `presence=true` is refused otherwise. `refusal`: the server
 * refuses the token. Both are undefined without an answer.
 */
export async function presenceOf({ channel, keeper }) {
  try {
    const names = channel === '' ? namesIn(keeper.token) : [channel]
    const path = (name) => 'channels/' + encodeURIComponent(name) + '/presence'
    const answers = await Promise.all(names.map(async (name) => answerOf(await request(keeper.token, path(name)))))
    if (answers.some(({ status }) => status >= 500 || status === 429)) return {}
    return { presence: answers.some(({ status }) => status === 200), refusal: answers.find(isRefused) }
  } catch {
    return {}
  }
}
