// Type tests (https://tstyche.org): what programs may write, and what the compiler refuses.
import type { EventEmitter } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import { describe, expect, test } from 'tstyche'
import pgWebsockets, {
  type Bridge,
  type ChannelPresence,
  type ChannelSummary,
  type ConnectionSummary,
  type Delivery,
  type Disconnected,
  type Health,
  type ListenerState,
  type NodeSummary,
  pgWebsockets as named,
  type PgWebsocketsOptions
} from '../../index.js'

const fastify = Fastify()
const { pgws } = fastify
const required = { dbUri: '', jwtSecret: '' }

describe('options', () => {
  test('the database is required, and keys come from a secret or from a URL', () => {
    expect<PgWebsocketsOptions>().type.toBeAssignableFrom({ dbUri: '', jwtSecret: '' })
    expect<PgWebsocketsOptions>().type.toBeAssignableFrom({ dbUri: '', jwksUrl: 'https://example.com' })
    expect<PgWebsocketsOptions>().type.not.toBeAssignableFrom({ jwtSecret: '' })
  })

  test('variables of the environment may be missing, except for the database', () => {
    const { OPTIONAL } = process.env
    expect<PgWebsocketsOptions>().type.toBeAssignableFrom({
      dbUri: '',
      jwtSecret: OPTIONAL,
      listenChannel: OPTIONAL
    })
    expect<PgWebsocketsOptions>().type.not.toBeAssignableFrom({ dbUri: OPTIONAL })
  })

  test('lists are texts, or arrays that may be read-only', () => {
    for (const list of ['a,b', ['a'], ['a', 'b'] as const] as const) {
      expect<PgWebsocketsOptions>().type.toBeAssignableFrom({ ...required, rawChannels: list })
      expect<PgWebsocketsOptions>().type.toBeAssignableFrom({ ...required, allowedOrigins: list })
      expect<PgWebsocketsOptions>().type.toBeAssignableFrom({ ...required, presenceChannels: list })
    }
    expect<PgWebsocketsOptions>().type.not.toBeAssignableFrom({ ...required, rawChannels: [1] })
  })

  test('numbers and switches are no texts', () => {
    expect<PgWebsocketsOptions>().type.toBeAssignableFrom({ ...required, poolSize: 5, migrate: true })
    expect<PgWebsocketsOptions>().type.not.toBeAssignableFrom({ ...required, poolSize: '5' })
    expect<PgWebsocketsOptions>().type.not.toBeAssignableFrom({ ...required, migrate: 'true' })
    expect<PgWebsocketsOptions>().type.not.toBeAssignableFrom({ ...required, metricsPort: '9100' })
  })

  test('an endpoint has a path and channels', () => {
    const endpoint = { path: '/live', channels: ['news'] } as const
    expect<PgWebsocketsOptions>().type.toBeAssignableFrom({ ...required, endpoints: [endpoint] })
    expect<PgWebsocketsOptions>().type.not.toBeAssignableFrom({ ...required, endpoints: [{ path: '/live' }] })
  })
})

describe('registration', () => {
  test('takes the options, and Fastify’s own', () => {
    expect(fastify.register).type.toBeCallableWith(pgWebsockets, required)
    expect(fastify.register).type.toBeCallableWith(pgWebsockets, { ...required, prefix: '/realtime' })
    expect(fastify.register).type.not.toBeCallableWith(pgWebsockets, { dbUri: 5 })
    expect(fastify.register).type.not.toBeCallableWith(pgWebsockets, { ...required, decorater: 'orders' })
  })

  test('the plugin is the default and a named export', () => {
    expect(named).type.toBe<typeof pgWebsockets>()
  })
})

describe('fastify.pgws', () => {
  test('is on every instance', () => {
    expect<FastifyInstance>().type.toHaveProperty('pgws')
    expect(pgws).type.toBe<Bridge>()
  })

  test('listen and subscribe give functions that end them', () => {
    expect(pgws.listen('orders', (payload) => expect(payload).type.toBe<string>())).type.toBe<
      Promise<() => Promise<void>>
    >()
    expect(pgws.subscribe('orders', (message) => expect(message).type.toBe<string>())).type.toBe<() => void>()
    expect(pgws.subscribe).type.not.toBeCallableWith('orders')
  })

  test('publish takes any payload, and answers who got it where it was asked to', () => {
    expect(pgws.publish('orders', { id: 1 })).type.toBe<Promise<void>>()
    expect(pgws.publish('orders', null, { sub: 'me' })).type.toBe<Promise<void>>()
    expect(pgws.publish('orders', 'text', {}, { confirm: true })).type.toBe<Promise<Delivery>>()
    expect(pgws.publish).type.not.toBeCallableWith('orders')
    expect(pgws.publish).type.not.toBeCallableWith(['orders'], 1)
  })

  test('publishAll takes several messages', () => {
    const messages = [{ channels: ['a', 'b'], payload: 1 }] as const
    expect(pgws.publishAll).type.toBeCallableWith(messages, {}, { key: 'once' })
    expect(pgws.publishAll).type.not.toBeCallableWith([{ channel: 'a', payload: 1 }], {})
  })

  test('channels are here at once, and those of all nodes later', () => {
    expect(pgws.channels()).type.toBe<ChannelSummary[]>()
    expect(pgws.channels({ scope: 'local' })).type.toBe<ChannelSummary[]>()
    expect(pgws.channels({ scope: 'cluster' })).type.toBe<Promise<ChannelSummary[]>>()
    expect(pgws.channels).type.not.toBeCallableWith({ scope: 'everywhere' })
  })

  test('shows and closes connections', () => {
    expect(pgws.connections()).type.toBe<Promise<ConnectionSummary[]>>()
    expect(pgws.connections({ scope: 'cluster' })).type.toBe<Promise<ConnectionSummary[]>>()
    expect(pgws.disconnect({ channel: 'orders' }, { code: 4000 })).type.toBe<Promise<Disconnected>>()
    expect(pgws.disconnect).type.toBeCallableWith({ transport: 'websocket' }, {}, { dryRun: true })
    expect(pgws.connections).type.not.toBeCallableWith({ transport: 'telex' })
    const onPage = ({ total }: { total: number }) => expect(total).type.toBe<number>()
    expect(pgws.connections).type.toBeCallableWith({ address: '::1', limit: 10, after: 'x', onPage })
    expect(pgws.listChannels).type.toBeCallableWith({ search: 'orders', sort: 'readers', limit: 10, onPage })
    expect(pgws.listChannels).type.not.toBeCallableWith({ sort: 'colour' })
    expect(pgws.disconnect).type.not.toBeCallableWith()
    expect(pgws.presence('orders')).type.toBe<Promise<ChannelPresence>>()
    expect(pgws.nodes()).type.toBe<NodeSummary[]>()
  })

  test('revokes tokens', () => {
    expect(pgws.revoke({ jti: 'one', expires: new Date() })).type.toBe<Promise<{ id: string }>>()
    expect(pgws.revoke({ sub: 'ann', issuedBefore: new Date() })).type.toBe<Promise<{ id: string }>>()
    expect(pgws.revoke).type.not.toBeCallableWith({ sub: 1 })
    expect(pgws.unrevoke('1')).type.toBe<Promise<void>>()
    expect(pgws.isRevoked({ sub: 'ann' })).type.toBe<boolean>()
    expect(pgws.revocations).type.toBeCallableWith({ limit: 10, after: '1' })
  })

  test('reports its state', () => {
    expect(pgws.health()).type.toBe<Promise<Health>>()
    expect(pgws.listenerState).type.toBe<ListenerState>()
    expect(pgws).type.toBeAssignableTo<EventEmitter>()
    pgws.on('lost', (error) => expect(error).type.toBe<Error>())
    pgws.on('reconnected', (event) => expect(event).type.toBe<{ gap: number }>())
  })
})
