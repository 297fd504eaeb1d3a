import { Hub } from '../../dist/lib/channels/hub.js'
import { webSocketFrames } from '../../dist/lib/transports/frames.js'

const ROUNDS = 100_000

/** The number of channels that are used. Only the number of other channels differs between the cases. */
const BUSY = 1000

/** Nanoseconds for each call of a function. */
function time(action) {
  const begun = performance.now()
  for (let i = 0; i < ROUNDS; i++) action(i)
  return ((performance.now() - begun) * 1e6) / ROUNDS
}

/** The hub alone, in this process: the cost of joining, leaving and delivering, which must not grow. */
export const joined = {
  title: 'The hub with 1,000 and with 100,000 joined channels, 1,000 of them busy',
  servers: ['1,000', '100,000'],
  figures: { join: 'ns to join', deliver: 'ns to deliver', leave: 'ns to leave' },
  baseline: '1,000',
  async run(server) {
    const count = Number(server.replace(',', ''))
    let delivered = 0
    const subscriber = () => ({ format: webSocketFrames, deliver: (frames) => (delivered += frames.length) })
    const hub = new Hub(() => {})
    const permissions = { read: true, write: false }
    for (let i = 0; i < count; i++) hub.join(subscriber(), [`channel-${i}`], permissions)
    const names = Array.from({ length: ROUNDS }, (_, i) => [`channel-${i % BUSY}`])
    const newcomers = Array.from({ length: ROUNDS }, subscriber)
    const text = 'x'.repeat(200)
    const deliver = time((i) => {
      hub.deliver({ channel: `channel-${i % BUSY}`, text })
      if (i % 100 === 99) hub.flush()
    })
    if (delivered !== ROUNDS) throw new Error(`${delivered} of ${ROUNDS} messages were delivered`)
    const join = time((i) => hub.join(newcomers[i], names[i], permissions))
    const leave = time((i) => hub.leave(newcomers[i], names[i], permissions))
    return { join, deliver, leave }
  }
}
