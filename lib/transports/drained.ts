import type { Writable } from 'node:stream'

/** Resolves when a stream takes more without buffering it, or has closed. */
export function whenDrained(stream: Writable): Promise<void> {
  // Responses of HTTP/2 have no `writableNeedDrain`, but the stream below them, which the types do not show.
  const { stream: below = stream } = stream as { stream?: Writable }
  return below.writableNeedDrain ? nextDrain(stream) : Promise.resolve()
}

/** As whenDrained, for a stream whose last write() has returned false. */
export function nextDrain(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off('drain', done).off('close', done)
      resolve()
    }
    stream.on('drain', done).on('close', done)
  })
}
