import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import type { Test } from 'tap'
import { until } from './helper.js'

export interface StreamEvent {
  id?: string
  event?: string
  data: string
}

/** A client of server-sent events that parses them as a browser does. */
export class Stream {
  readonly events: StreamEvent[] = []
  comments = 0
  readonly response: IncomingMessage
  readonly ended: Promise<unknown>

  /** @param onEvent is called for each event */
  constructor(response: IncomingMessage, onEvent: (event: StreamEvent) => void = () => {}) {
    this.response = response
    this.ended = once(response, 'close')
    let rest = ''
    response.setEncoding('utf8')
    response.on('error', () => {})
    response.on('data', (chunk) => {
      const blocks = (rest + chunk).split('\n\n')
      rest = blocks.pop()!
      for (const block of blocks) {
        const event: StreamEvent = { data: '' }
        const data: string[] = []
        for (const line of block.split('\n')) {
          if (line.startsWith(':')) this.comments++
          const [, field, value] = /^(\w+): ?(.*)$/s.exec(line) ?? []
          if (field === 'data') data.push(value!)
          else if (field === 'id' || field === 'event') event[field] = value!
        }
        if (data.length === 0) continue
        const whole = { ...event, data: data.join('\n') }
        this.events.push(whole)
        onEvent(whole)
      }
    })
  }

  async received(count: number): Promise<StreamEvent[]> {
    await until(() => this.events.length >= count)
    return this.events
  }
}

export async function answer(url: string, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  const sent = request(url, { headers: { accept: 'text/event-stream', ...headers }, agent: false }).end()
  return (await once(sent, 'response'))[0]
}

export async function stream(t: Test, url: string, headers: Record<string, string> = {}): Promise<Stream> {
  const response = await answer(url, headers)
  t.teardown(() => response.destroy())
  t.equal(response.statusCode, 200)
  return new Stream(response)
}
