// Shared by the cases about several nodes: writers that publish in SQL, and the reader of one node.
import { once } from 'node:events'
import { WebSocket } from 'ws'
import { address, sleep } from './harness.js'

export const LISTEN_CHANNEL = 'postgres-websockets-listener'
export const CHANNEL = 'chat'
export const WRITERS = 16

/** The prefix of all subjects of NATS. */
export const PREFIX = 'bench'

/** Variables of the servers whose bus is a NATS server. */
export const busOf = (nats) => nats && { BUS: `nats://127.0.0.1:${nats.port}`, BUS_PREFIX: PREFIX }

/** A message contains its publisher, its number, and its time in milliseconds. It has some 200 bytes in its envelope. */
const PAYLOAD = `$1::text || ' ' || n || ' ' || round(extract(epoch from clock_timestamp()) * 1000, 3) || ' ${'x'.repeat(60)}'`
const MESSAGE = / ?"(\d+) (\d+) ([\d.]+) x/
const publishing = (call) =>
  `select count(${call}) from generate_series($2::integer, $2::integer + $3::integer - 1) n`
/** The statements that publish several messages in one transaction, by the bus that carries them. */
export const STATEMENTS = {
  pg_notify:
    publishing(`pg_notify('${LISTEN_CHANNEL}', json_build_object('event', 'Message', 'channel', '${CHANNEL}',
    'payload', ${PAYLOAD}, 'claims', json_build_object('message_delivered_at', extract(epoch from clock_timestamp())))::text)`),
  NOTIFY: publishing(`pgws.publish_text('${CHANNEL}', ${PAYLOAD})`),
  NATS: publishing(`pgws.publish_text('${CHANNEL}', ${PAYLOAD})`)
}

/** A reader that checks that every message arrives once, in the order of its writer. */
export async function startReader(port) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}${address('node', CHANNEL, { mode: 'r' })}`)
  await once(socket, 'open')
  const next = Array(WRITERS).fill(0)
  const reader = { socket, seen: 0, lastAt: 0, waits: [], failure: undefined }
  socket.on('message', (data) => {
    const now = performance.timeOrigin + performance.now()
    const [, writer, number, time] = MESSAGE.exec(data.toString('latin1'))
    if (Number(number) !== next[writer])
      reader.failure ??= `writer ${writer}: ${number} instead of ${next[writer]}`
    next[writer] = Number(number) + 1
    reader.seen++
    reader.lastAt = now
    reader.waits.push(now - Number(time))
  })
  socket.on('close', () => {
    reader.failure ??= 'the reader was closed'
  })
  return reader
}

/** Waits until the reader has so many messages, because losing messages fast is not a result. */
export async function arrived(reader, count) {
  const deadline = performance.now() + 30_000
  while (reader.seen < count && reader.failure === undefined && performance.now() < deadline) await sleep(10)
  if (reader.seen !== count) reader.failure ??= `${reader.seen} of ${count} came`
  if (reader.failure) throw new Error(reader.failure)
}
