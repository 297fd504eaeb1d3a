const END = '\r\n'

/** The operations that are followed by a message (https://docs.nats.io/reference/reference-protocols/nats-protocol). */
const WITH_MESSAGE = /^H?(?:MSG|PUB) /i

/** Cuts messages out of what a nats-server sends on one connection. */
export class NatsFilter {
  #rest = Buffer.alloc(0)

  /**
   * @param chunk what comes from the server
   * @param drop whether a message is cut out
   * @returns what is left of it; a message of which a part is missing comes with a later chunk
   */
  pass(chunk: Buffer, drop: (subject: string, message: string) => boolean): Buffer {
    const bytes = Buffer.concat([this.#rest, chunk])
    const passed: Buffer[] = []
    let at = 0
    for (;;) {
      const lineEnd = bytes.indexOf(END, at)
      if (lineEnd === -1) break
      const line = bytes.toString('utf8', at, lineEnd)
      let end = lineEnd + END.length
      let dropped = false
      if (WITH_MESSAGE.test(line)) {
        // The subject is the first word behind the operation, and the length of the message, with its headers, the last one.
        const words = line.split(/\s+/)
        const length = Number(words.at(-1))
        if (bytes.length < end + length + END.length) break
        dropped = drop(words[1]!, bytes.toString('utf8', end, end + length))
        end += length + END.length
      }
      if (!dropped) passed.push(bytes.subarray(at, end))
      at = end
    }
    this.#rest = bytes.subarray(at)
    return Buffer.concat(passed)
  }
}
