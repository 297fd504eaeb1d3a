import type { Writable } from 'node:stream'

/** Resolves when a stream takes more without buffering it, or has closed. */
export function whenDrained(stream: Writable): Promise<void> {
  return stream.writableNeedDrain ? nextDrain(stream) : Promise.resolve()
}

/** As whenDrained, for a stream whose last write() has returned false. (Responses of HTTP/2 have no `writableNeedDrain`.) */
export function nextDrain(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off('drain', done).off('close', done)
      resolve()
    }
    stream.on('drain', done).on('close', done)
  })
}
