import type { Test } from 'tap'
import { type Announcement, type Beat, NatsBus, type NatsBusOptions } from '../../lib/bus/index.js'
import type { NatsServer } from './nats.js'

/** What a bus has called its handlers with. */
export type Heard =
  | { announced: Announcement }
  | { beat: Beat }
  | { received: string }
  | { interrupted: string }
  | { restored: true }

let nodes = 0

/** A bus that is not started yet, and what it will hear and log. */
export function busBefore(t: Test, server: Pick<NatsServer, 'url'>, options: Partial<NatsBusOptions> = {}) {
  const lines: string[] = []
  const heard: Heard[] = []
  const add = (fields: object, message: string) => {
    lines.push(`${message} ${String((fields as { err?: unknown }).err)}`)
  }
  const node = `node${nodes++}`
  const bus = new NatsBus({
    servers: [server.url],
    credentials: undefined,
    ca: undefined,
    prefix: () => 'pgws.test',
    node,
    log: { debug: add, info: add, warn: add, error: add },
    ...options
  })
  t.teardown(() => bus.close())
  const start = () =>
    bus.start({
      announced: (announcement) => heard.push({ announced: announcement }),
      beat: (beat) => heard.push({ beat }),
      received: (text) => heard.push({ received: text }),
      interrupted: (error) => heard.push({ interrupted: error.message }),
      restored: () => heard.push({ restored: true })
    })
  /** How often a handler was called. */
  const count = (kind: 'announced' | 'beat' | 'received' | 'interrupted' | 'restored') =>
    heard.filter((one) => kind in one).length
  const texts = () => heard.flatMap((one) => ('announced' in one ? [one.announced.text] : []))
  const received = () => heard.flatMap((one) => ('received' in one ? [one.received] : []))
  return { bus, node, heard, lines, start, count, texts, received }
}

/** A started bus. */
export async function busOf(t: Test, server: Pick<NatsServer, 'url'>, options: Partial<NatsBusOptions> = {}) {
  const result = busBefore(t, server, options)
  await result.start()
  return result
}

/** An announcement that follows the one before it. */
export const announcement = (channel: string, position: number, text?: string) => ({
  channel,
  position,
  previous: position - 1,
  beat: 0,
  text: text ?? `text ${position}`
})
