/** Below what everything is served. */
export const base = location.pathname.replace(/[^/]*$/, '')
const MINUTE = 60000
const DAY = 24 * 60 * MINUTE

/** The claims of a token, for display only: the server decides. */
export function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0))
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {}
  } catch {
    return {}
  }
}

/** The claims that say whose token it is and what it allows, but not until when. They are the same after a refresh. */
export function ownerOf(token) {
  const { exp, iat, nbf, jti, ...owner } = claimsOf(token)
  return owner
}

/** The channels that a token names, as far as they are names. */
export function namesIn(token) {
  const { channel, channels } = claimsOf(token)
  return [...new Set([channel, channels].flat())].filter((name) => typeof name === 'string')
}

/** Sends a request with a token. */
export function request(token, path, { method = 'GET', body } = {}) {
  const headers = { authorization: 'Bearer ' + token, ...(body && { 'content-type': 'application/json' }) }
  return fetch(base + path, { method, headers, body: body && JSON.stringify(body) })
}

/** Renews a token that expires: a minute before its end, or after half of its lifetime. */
export class TokenKeeper {
  constructor(token, onFresh) {
    Object.assign(this, { token, onFresh })
    this.schedule()
  }

  /** Whether the token has expired, by this machine's clock. */
  get ended() {
    return this.left <= 0
  }

  get left() {
    const { exp } = claimsOf(this.token)
    return typeof exp === 'number' ? exp * 1000 - Date.now() : Infinity
  }

  schedule() {
    if (this.left === Infinity || this.ended) return
    const wait = Math.max(this.left - MINUTE, this.left / 2)
    // Timers take no more than 24 days.
    this.timer = wait > DAY ? setTimeout(() => this.schedule(), DAY) : setTimeout(() => this.refresh(), wait)
  }

  /** Resolves when there is a new token, or when no new one is available. */
  refresh() {
    this.refreshing ??= this.ask().finally(() => { this.refreshing = undefined })
    return this.refreshing
  }

  async ask() {
    clearTimeout(this.timer)
    let answer
    try {
      answer = await request(this.token, 'token', { method: 'POST' })
    } catch {}
    if (this.stopped) return
    if (answer === undefined || answer.status === 429 || answer.status >= 500) {
      // The server is perhaps about to come back.
      if (!this.ended) this.timer = setTimeout(() => this.refresh(), 1000)
      return
    }
    // 404: this server does not issue tokens.
    this.refused = !answer.ok
    if (this.refused) return
    const { token } = await answer.json()
    if (this.stopped) return
    const old = this.token
    this.token = token
    this.onFresh(token, old)
    this.schedule()
  }

  /** Returns a token to the SDK when its own has expired. If it asks again, the server's clock may be ahead of ours. */
  async fresh() {
    const isOld = () => this.ended || this.token === this.given
    if (isOld()) await this.refresh()
    if (isOld()) throw this.refused ? new Centrifuge.UnauthorizedError('no fresh token') : new Error('the server is unavailable')
    this.given = this.token
    return this.token
  }

  stop() {
    this.stopped = true
    clearTimeout(this.timer)
  }
}
