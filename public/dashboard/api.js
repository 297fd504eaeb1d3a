/** Below what everything is served. */
export const base = location.pathname.replace(/[^/]*$/, '')

/** What the server says of a request that it refuses. */
export class ApiError extends Error {
  constructor(status, { message, code } = {}) {
    super(message || 'The server answered with status ' + status + '.')
    Object.assign(this, { status, code })
  }
}

/** The requests of the page. */
export class Api {
  /** @param onRefused is called with the error when the token is not, or no longer, an administrator's */
  constructor(token, onRefused) {
    Object.assign(this, { token, onRefused })
  }

  /**
   * Sends a request.
   * @param query parameters; those that are empty or undefined are left out
   * @throws ApiError with the server's sentence; Error if the server is not reached
   */
  async request(path, { method = 'GET', query = {}, body, accept, signal, headers } = {}) {
    const parameters = new URLSearchParams()
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined && value !== null && value !== '') parameters.set(name, value)
    }
    const search = parameters.size > 0 ? '?' + parameters : ''
    let answer
    try {
      answer = await fetch(base + path + search, {
        method,
        signal,
        cache: 'no-store',
        headers: {
          authorization: 'Bearer ' + this.token,
          ...(accept && { accept }),
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...headers
        },
        body
      })
    } catch (error) {
      if (signal?.aborted) throw error
      throw new Error('The server is not reached. Is it running?')
    }
    if (answer.ok) return answer
    const error = new ApiError(answer.status, await answer.json().catch(() => undefined))
    if (answer.status === 401 || error.code === 'FST_PGWS_ADMIN_ONLY') this.onRefused(error)
    throw error
  }

  /** The answer's JSON. */
  async json(path, options) {
    const answer = await this.request(path, options)
    return answer.status === 204 ? undefined : answer.json()
  }

  /**
   * A page of a list: its items, how many there are in all, the cursor of the next page, and the nodes that did not answer.
   */
  async page(path, query) {
    const answer = await this.request(path, { query })
    const missing = answer.headers.get('x-pgws-missing-nodes')
    const total = answer.headers.get('x-pgws-total')
    return {
      items: await answer.json(),
      total: total === null ? undefined : Number(total),
      next: answer.headers.get('x-pgws-next') ?? undefined,
      missing: missing ? missing.split(', ') : []
    }
  }
}

/**
 * The events of a streamed answer (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).
 * `EventSource` cannot send a token in a header.
 */
export async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  let event = { type: 'message', data: [] }
  try {
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return
      const lines = (rest + value).split(/\r?\n/)
      rest = lines.pop()
      for (const line of lines) {
        if (line === '') {
          if (event.data.length > 0) yield { ...event, data: event.data.join('\n') }
          event = { type: 'message', data: [] }
          continue
        }
        const [, name, text] = /^([^:]*):? ?(.*)$/s.exec(line)
        if (name === 'data') event.data.push(text)
        else if (name === 'event') event.type = text
        else if (name === 'id') event.id = text
      }
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}
