// Readers on raw sockets, in a process of their own: they check that every message comes, once and in order, and
// keep the latencies of some of them.
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'

/** Where the digits of `seq` and `time` stand in a message (see run.js). */
const SEQUENCE = /"seq":"(\d+)"/
const TIME = /"time":"(\d+)"/

let expected = 0
let perReader = 0
let done = 0
let failure
const latencies = []

function open(port, path) {
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
    const reader = { next: 0, seen: 0, rest: undefined, sample: Math.random() < 0.05 }
    let head = ''
    socket.on('data', function onHead(chunk) {
      head += chunk.toString('latin1')
      const end = head.indexOf('\r\n\r\n')
      if (end === -1) return
      socket.off('data', onHead)
      if (!head.startsWith('HTTP/1.1 101')) return reject(new Error(head.slice(0, 200)))
      socket.on('data', (chunk) => read(reader, chunk))
      resolve(socket)
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
    if ((data[at] & 0x0f) === 1) message(reader, data, start, length)
    at = start + length
  }
  reader.rest = at === data.length ? undefined : data.subarray(at)
}

let offsets

function message(reader, data, start, length) {
  if (offsets === undefined) {
    const text = data.latin1Slice(start, start + length)
    const sequence = SEQUENCE.exec(text)
    const time = TIME.exec(text)
    offsets = { sequence: sequence.index + 7, time: time.index + 8 }
  }
  const sequence = Number(data.latin1Slice(start + offsets.sequence, start + offsets.sequence + 9))
  if (sequence < reader.next) failure ??= `out of order or twice: ${sequence} after ${reader.next - 1}`
  reader.next = sequence + 1
  reader.seen++
  if (reader.sample && reader.seen % 7 === 0) {
    latencies.push(Date.now() - Number(data.latin1Slice(start + offsets.time, start + offsets.time + 13)))
  }
  if (++done === expected) process.send({ done, failure, latencies })
}

process.on('message', async ({ port, paths, messages }) => {
  perReader = messages
  expected = perReader * paths.length
  for (let i = 0; i < paths.length; i += 50) {
    await Promise.all(paths.slice(i, i + 50).map((path) => open(port, path)))
  }
  process.send({ ready: true })
})
process.on('disconnect', () => process.exit())
