import { BinaryWriter } from '@bufbuild/protobuf/wire'
import pg from 'pg'
import { address, notification, percentile, sign, sleep, startClient, startServer } from '../harness.js'

/** A message of some 200 bytes, in which the fields for readers have fixed places. */
export function message(channel, sequence) {
  const time = (performance.timeOrigin + performance.now()).toFixed(3)
  return `{"channel":"${channel}","seq":"${String(sequence).padStart(9, '0')}","time":"${time}","payload":"${'x'.repeat(120)}"}`
}

/** The same message as an envelope, whose payload clients of the SDK receive. */
function enveloped(channel, sequence) {
  const { seq, time, payload } = JSON.parse(message(channel, sequence))
  return JSON.stringify({ channel, payload: { seq, time, text: payload } })
}

/** Publishes messages in SQL, `batch` in each transaction, to the channels in turn. */
export async function publish(
  client,
  server,
  { channels, from = 0, total, batch, perSecond, pause, write = message }
) {
  const begun = performance.now()
  for (let sent = 0; sent < total; ) {
    const texts = []
    let databaseChannel
    for (let i = 0; i < batch && sent < total; i++, sent++) {
      const channel = channels[sent % channels.length]
      const [where, text] = notification(server, channel, write(channel, from + sent))
      databaseChannel = where
      texts.push(text)
    }
    await client.query({
      name: 'notify',
      text: 'select count(pg_notify($1, x)) from unnest($2::text[]) x',
      values: [databaseChannel, texts]
    })
    if (pause) await sleep(pause)
    const ahead = perSecond ? (sent * 1000) / perSecond - (performance.now() - begun) : 0
    if (ahead > 0) await sleep(ahead)
  }
}

async function run(server, dbUri, { readers, messages, batch, perSecond, pause, write, slow = () => 1 }) {
  const greeting = GREETINGS[server]?.(readers[0])
  const { port, ask, stop } = await startServer(greeting ? 'ours' : server, dbUri)
  const client = startClient('readers')
  const publisher = new pg.Client(dbUri)
  try {
    const count = Math.ceil(messages / slow(server))
    const paths = readers.map((channel) =>
      greeting ? greeting.path : address(server, channel, { mode: 'r' })
    )
    const socketIo = server === 'socket-io'
    await client.order({
      port,
      paths,
      messages: count,
      socketIo,
      greeting,
      sample: Math.min(1, 50 / readers.length)
    })
    await publisher.connect()
    await ask('delay')
    const channels = [...new Set(readers)]
    const begun = performance.now()
    const finished = client.next()
    finished.catch(() => {})
    await publish(publisher, server, {
      channels,
      total: count * channels.length,
      batch,
      perSecond,
      pause,
      write
    })
    const { done, failure, latencies } = await finished
    // Losing messages fast is not a result.
    if (failure) throw new Error(`${server}: ${failure}`)
    const seconds = (performance.now() - begun) / 1000
    const waits = latencies.map(([, wait]) => wait)
    return {
      rate: done / seconds,
      p50: percentile(waits, 0.5),
      p99: percentile(waits, 0.99),
      block: await ask('delay')
    }
  } finally {
    await publisher.end()
    await client.stop()
    await stop()
  }
}

/** The path and the first commands of clients of the SDK, and how the second reply begins, which is that of the subscription. */
const GREETINGS = {
  sdk: (channel) => ({
    path: '/connection/websocket',
    opcode: 1,
    bytes: `${JSON.stringify({ id: 1, connect: { token: sign({ mode: 'r' }) } })}\n${JSON.stringify({ id: 2, subscribe: { channel } })}`,
    answer: '{"id":2,"subscribe":'
  }),
  'sdk (protobuf)': (channel) => {
    // In Command, id is field 1, connect 4, and subscribe 5. Their first fields are the token and the channel.
    const command = (id, method, text) =>
      new BinaryWriter()
        .fork()
        .tag(1, 0)
        .uint32(id)
        .tag(method, 2)
        .fork()
        .tag(1, 2)
        .string(text)
        .join()
        .join()
    const commands = [command(1, 4, sign({ mode: 'r' })), command(2, 5, channel)]
    return {
      path: '/connection/websocket?format=protobuf',
      opcode: 2,
      bytes: Buffer.concat(commands.map((writer) => writer.finish())).toString('latin1'),
      // Reply.id with the value 2, and Reply.subscribe, which is field 6.
      answer: '\x08\x02\x32'
    }
  }
}

const everyone = Array(500).fill('chat')
const slow = (server) => ({ naive: 24, 'socket-io': 24 })[server] ?? 1
const fanOut = (parameters) => (server, dbUri, quick) =>
  run(server, dbUri, { ...parameters, messages: parameters.messages / (quick ? 4 : 1) })
/** At full speed, the latency shows only how far the publisher is ahead of the readers, so the paced cases measure it. */
const atFullSpeed = { rate: 'deliveries/s' }
const latencies = { p50: 'p50 ms', p99: 'p99 ms' }

export const burst = {
  title: 'Fan-out to 500 subscribers, 100 notifications a transaction',
  servers: ['limit', 'ours', 'naive', 'socket-io'],
  figures: atFullSpeed,
  run: fanOut({ readers: everyone, messages: 6000, batch: 100, slow })
}

export const single = {
  title: 'Fan-out to 500 subscribers, one notification a transaction, full speed',
  servers: ['limit', 'ours', 'naive', 'socket-io'],
  figures: atFullSpeed,
  run: fanOut({ readers: everyone, messages: 4000, batch: 1, slow: (server) => Math.min(slow(server), 16) })
}

export const paced = {
  title: 'Fan-out to 500 subscribers, 500 messages/s',
  servers: ['limit', 'ours'],
  figures: latencies,
  run: fanOut({ readers: everyone, messages: 6000, batch: 1, perSecond: 500 })
}

export const channels = {
  title: '1,000 sockets, each on its own channel, 20,000 messages over them',
  servers: ['limit', 'ours', 'naive', 'socket-io'],
  figures: atFullSpeed,
  run: fanOut({
    readers: Array.from({ length: 1000 }, (_, i) => `channel-${i}`),
    messages: 20,
    batch: 100
  })
}

export const blocking = {
  title: 'Bursts of 1,000 notifications to 5,000 subscribers',
  servers: ['limit', 'ours'],
  figures: { block: 'longest block of the event loop, ms', rate: 'deliveries/s' },
  pairs: 3,
  run: fanOut({ readers: Array(5000).fill('chat'), messages: 4000, batch: 1000, pause: 500 })
}

export const sdk = {
  title: 'Fan-out to 500 clients of the SDK, beside 500 raw sockets',
  servers: ['ours', 'sdk'],
  figures: atFullSpeed,
  baseline: 'sdk',
  run: fanOut({ readers: everyone, messages: 6000, batch: 100, write: enveloped })
}

export const sdkPaced = {
  title: 'Fan-out to 500 clients of the SDK, 500 messages/s, beside 500 raw sockets',
  servers: ['ours', 'sdk'],
  figures: latencies,
  baseline: 'sdk',
  run: fanOut({ readers: everyone, messages: 6000, batch: 1, perSecond: 500, write: enveloped })
}

export const sdkProtobuf = {
  title: 'Fan-out to 500 clients of the SDK that speak protobuf, beside 500 that speak JSON',
  servers: ['sdk', 'sdk (protobuf)'],
  figures: atFullSpeed,
  baseline: 'sdk (protobuf)',
  run: fanOut({ readers: everyone, messages: 6000, batch: 100, write: enveloped })
}
