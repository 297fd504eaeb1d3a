// Readers on raw sockets, in a process of their own. They check that every message arrives once and in order, and
// record the latencies of some.
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'

/** The places of the digits of `seq` and `time` in a message (see message() in ../cases/fan-out.js). */
const SEQUENCE = /seq\\?":\\?"(\d+)/
const TIME = /time\\?":\\?"([\d.]+)/

let expected = 0
let done = 0
let failure
let sampled = 1
/** [arrival, latency], in milliseconds. */
const latencies = []
const now = () => performance.timeOrigin + performance.now()

/** Less than 64 KiB as a frame of a client, masked with zeroes (RFC 6455, section 5.2). */
function frame(opcode, bytes) {
  const head = Buffer.from([0x80 | opcode, 0xfe, 0, 0, 0, 0, 0, 0])
  head.writeUInt16BE(bytes.length, 2)
  return Buffer.concat([head, bytes])
}

function open({ port, path, socketIo, greeting }) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(
        `GET ${path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`
      )
    })
    socket.on('error', reject)
    socket.on('close', () => {
      failure ??= 'a socket was closed'
    })
    const reader = { next: 0, seen: 0, rest: undefined, sample: Math.random() < sampled }
    let head = ''
    socket.on('data', function onHead(chunk) {
      head += chunk.toString('latin1')
      const end = head.indexOf('\r\n\r\n')
      if (end === -1) return
      if (!head.startsWith('HTTP/1.1 101')) return reject(new Error(head.slice(0, 200)))
      if (greeting) {
        if (head.includes(greeting.answer)) return begin()
        if (!reader.greeted) {
          reader.greeted = true
          socket.write(frame(greeting.opcode, Buffer.from(greeting.bytes, 'latin1')))
        }
        return
      }
      if (socketIo) {
        // Engine.IO's greeting, then Socket.IO's: "40" joins the namespace "/".
        if (head.includes('40{')) return begin()
        if (!reader.greeted && head.includes('0{')) {
          reader.greeted = true
          socket.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x34, 0x30]))
        }
        return
      }
      begin(Buffer.from(head.slice(end + 4), 'latin1'))
      function begin(more) {
        socket.off('data', onHead)
        if (more?.length) read(reader, more)
        socket.on('data', (chunk) => read(reader, chunk))
        resolve(socket)
      }
    })
  })
}

function read(reader, chunk) {
  const data = reader.rest === undefined ? chunk : Buffer.concat([reader.rest, chunk])
  let at = 0
  for (;;) {
    if (data.length - at < 2) break
    const short = data[at + 1] & 0x7f
    const start = at + (short < 126 ? 2 : 4)
    if (data.length < start) break
    const length = short < 126 ? short : data.readUInt16BE(at + 2)
    if (data.length < start + length) break
    // `{}` is a ping of Centrifugo's client protocol, and so is the byte 0.
    if ((data[at] & 0x0f) <= 2 && length > 2) message(reader, data, start, length)
    at = start + length
  }
  reader.rest = at === data.length ? undefined : data.subarray(at)
}

let offsets

function message(reader, data, start, length) {
  if (offsets === undefined) {
    const text = data.latin1Slice(start, start + length)
    const [sequence, time] = [SEQUENCE.exec(text), TIME.exec(text)]
    offsets = {
      sequence: sequence.index + sequence[0].length - sequence[1].length,
      time: time.index + time[0].length - time[1].length
    }
  }
  const sequence = Number(data.latin1Slice(start + offsets.sequence, start + offsets.sequence + 9))
  if (sequence < reader.next) failure ??= `out of order or twice: ${sequence} after ${reader.next - 1}`
  reader.next = sequence + 1
  reader.seen++
  if (reader.sample && reader.seen % 7 === 0) {
    const came = now()
    const sent = Number(data.latin1Slice(start + offsets.time, start + offsets.time + 17))
    latencies.push([came, came - sent])
  }
  if (++done === expected) finish()
}

/** Sent when all are open, even if all were open before. */
let ready = false
function finish() {
  if (ready && done >= expected) process.send({ done, failure, latencies })
}

process.on(
  'message',
  async ({ port, paths, messages, socketIo = false, greeting, sample = 1, atOnce = 50 }) => {
    expected = messages * paths.length
    sampled = sample
    for (let i = 0; i < paths.length; i += atOnce) {
      await Promise.all(paths.slice(i, i + atOnce).map((path) => open({ port, path, socketIo, greeting })))
    }
    process.send({ ready: true })
    ready = true
    if (done > 0) finish()
  }
)
process.on('disconnect', () => process.exit())
