/** Over HTTP/2 and later all streams share one connection, so there is no limit. */
const isLimited = () => {
  const [navigation] = performance.getEntriesByType('navigation')
  return !/^h[23]/.test(navigation?.nextHopProtocol ?? '')
}

let worker
/** The worker that keeps the streams of all tabs; null if the browser has none. */
function sharedWorker() {
  if (worker !== undefined) return worker
  try {
    worker = new SharedWorker(new URL('event-stream-worker.js', import.meta.url))
    // A worker that cannot be started is an error here and nowhere else.
    worker.onerror = () => {
      const broken = worker.streams
      worker = null
      for (const stream of broken) stream.fail()
    }
    worker.streams = new Set()
  } catch {
    worker = null
  }
  return worker
}

/**
 * Opens an event stream. Tabs of one browser that ask for the same share one, because HTTP/1.1 browsers open no more than
 * six connections to a server, and a stream takes one for as long as it is open.
 * @param url its address, absolute
 * @param key streams with the same key have the same messages, and are for the same person; undefined: it is not shared
 * @param since the id of the last message that is known; undefined: the stream begins with the `last` ones
 * @returns an EventTarget with the events of an EventSource, and `close()`
 */
export function openEventStream(url, { key, since, last }) {
  const shared = key === undefined ? null : sharedWorker()
  return shared === null ? new EventSource(url) : new SharedEventStream(shared, { url, key, since, last })
}

class SharedEventStream extends EventTarget {
  constructor(worker, request) {
    super()
    this.streams = worker.streams
    this.streams.add(this)
    const channel = new MessageChannel()
    this.port = channel.port1
    this.port.onmessage = ({ data: [type, data, lastEventId] }) => {
      if (type === 'ping') this.port.postMessage('pong')
      else this.dispatchEvent(new MessageEvent(type, { data, lastEventId: lastEventId ?? '' }))
    }
    worker.port.postMessage({ ...request, limited: isLimited() }, [channel.port2])
    this.leave = () => this.port.postMessage('leave')
    addEventListener('pagehide', this.leave)
    // The page is shown again as it was, but without its stream.
    this.back = ({ persisted }) => { if (persisted) this.fail() }
    addEventListener('pageshow', this.back)
  }

  fail() {
    this.dispatchEvent(new MessageEvent('error', { data: undefined }))
  }

  close() {
    this.leave()
    this.port.onmessage = null
    this.streams.delete(this)
    removeEventListener('pagehide', this.leave)
    removeEventListener('pageshow', this.back)
  }
}
