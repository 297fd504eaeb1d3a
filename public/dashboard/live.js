import { eventsOf } from './api.js'
import { WINDOW } from './series.js'

/** How many events of all nodes the page keeps. */
const MAX_EVENTS = 1000
/** A node that has sent nothing for so long is not reporting, in milliseconds; after the second, it is forgotten. */
const SILENT = 10_000
const GONE = 120_000
/** A stream on which nothing came for so long has broken without a word, in milliseconds. */
const STALE = 15_000

/**
 * The live stream of the cluster: `/events?scope=cluster&stats=true`. It emits `stats` when a node has sent figures, `event`
 * for each new event (its detail), and `state`.
 */
export class Live extends EventTarget {
  /** The nodes by their id: `samples`, oldest first, with the time `at` in seconds, and when the last one was received. */
  nodes = new Map()
  /** Oldest first. */
  events = []
  state = 'connecting'
  #seen = new Set()
  #ended = false
  #failures = 0
  #abort = new AbortController()

  constructor(api) {
    super()
    this.api = api
    this.#run()
    this.watch = setInterval(() => {
      if (this.state === 'live' && performance.now() - this.heard > STALE) this.#abort.abort()
    }, 5000)
  }

  stop() {
    this.#ended = true
    clearInterval(this.watch)
    this.#abort.abort()
  }

  /** The nodes with what they are now: `stats`, and whether they are still `reporting`. Ordered by host name. */
  get current() {
    const now = performance.now()
    const all = [...this.nodes].map(([id, { samples, received }]) => ({ id, samples, stats: samples.at(-1).stats, reporting: now - received < SILENT }))
    return all.sort((a, b) => (a.stats.hostname + a.id).localeCompare(b.stats.hostname + b.id))
  }

  async #run() {
    while (!this.#ended) {
      this.#abort = new AbortController()
      try {
        const answer = await this.api.request('events', {
          query: { scope: 'cluster', stats: true },
          accept: 'text/event-stream',
          signal: this.#abort.signal,
          headers: this.last && { 'last-event-id': this.last }
        })
        this.heard = performance.now()
        this.#change('live')
        for await (const event of eventsOf(answer)) this.#receive(event)
      } catch (error) {
        // The page asks for another token then.
        if (error.status === 401 || error.status === 403) return
        this.error = error
      }
      if (this.#ended) return
      this.#change('waiting')
      await new Promise((resolve) => setTimeout(resolve, Math.min(500 * 2 ** this.#failures++, 10_000) * (0.5 + Math.random() / 2)))
    }
  }

  #receive({ type, data, id }) {
    this.heard = performance.now()
    this.#failures = 0
    if (id) this.last = id
    if (type === 'NodeStats') this.#addStats(JSON.parse(data))
    else if (type === 'Event') this.#addEvent(JSON.parse(data))
  }

  #addStats(stats) {
    const at = Date.parse(stats.time) / 1000
    if (Number.isNaN(at)) return
    const node = this.nodes.get(stats.node) ?? { samples: [] }
    const { samples } = node
    // What a node tells first of the last ten minutes may come after what it tells now.
    const after = samples.findLastIndex((sample) => sample.at <= at)
    if (samples[after]?.at === at) return
    samples.splice(after + 1, 0, { at, stats })
    const first = samples.findIndex((sample) => sample.at > samples.at(-1).at - WINDOW - 30)
    if (first > 0) samples.splice(0, first)
    node.received = performance.now()
    this.nodes.set(stats.node, node)
    for (const [id, { received }] of this.nodes) if (node.received - received > GONE) this.nodes.delete(id)
    this.dispatchEvent(new Event('stats'))
  }

  #addEvent(event) {
    if (this.#seen.has(event.id)) return
    this.#seen.add(event.id)
    this.events.push(event)
    while (this.events.length > MAX_EVENTS) this.#seen.delete(this.events.shift().id)
    this.dispatchEvent(new CustomEvent('event', { detail: event }))
  }

  #change(state) {
    if (this.state === state) return
    this.state = state
    this.dispatchEvent(new Event('state'))
  }
}
