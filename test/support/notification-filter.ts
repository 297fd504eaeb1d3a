/** The byte that begins a NotificationResponse (https://www.postgresql.org/docs/current/protocol-message-formats.html). */
const NOTIFICATION = 'A'.charCodeAt(0)

const NO_TLS = 'N'.charCodeAt(0)

/** Cuts notifications out of what a PostgreSQL sends on one connection. */
export class NotificationFilter {
  #rest = Buffer.alloc(0)

  /**
   * @param chunk what comes from the server
   * @param drop whether a notification is cut out
   * @returns what is left of it; a message of which a part is missing comes with a later chunk
   */
  pass(chunk: Buffer, drop: (channel: string, payload: string) => boolean): Buffer {
    // The answer to a client that asks for TLS is this one byte.
    if (chunk.length === 1 && chunk[0] === NO_TLS && this.#rest.length === 0) return chunk
    const bytes = Buffer.concat([this.#rest, chunk])
    const passed: Buffer[] = []
    let at = 0
    while (bytes.length >= at + 5) {
      const end = at + 1 + bytes.readUInt32BE(at + 1)
      if (bytes.length < end) break
      const message = bytes.subarray(at, end)
      if (message[0] !== NOTIFICATION || !drop(...readNotification(message))) passed.push(message)
      at = end
    }
    this.#rest = bytes.subarray(at)
    return Buffer.concat(passed)
  }
}

function readNotification(message: Buffer): [channel: string, payload: string] {
  // Behind the type, the length and the number of the process.
  const end = message.indexOf(0, 9)
  return [message.toString('utf8', 9, end), message.toString('utf8', end + 1, message.length - 1)]
}
