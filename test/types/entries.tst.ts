// Type tests of the other entry points.
import type pg from 'pg'
import { Server } from 'socket.io'
import { describe, expect, test } from 'tstyche'
import { Emitter, publish } from '../../emitter.js'
import { createAdapter } from '../../socket.io.js'
import { type EmbeddedDatabase, embedded, signToken } from '../../testing.js'

declare const pool: pg.Pool
declare const client: pg.PoolClient

describe('fastify-pg-websockets/emitter', () => {
  test('publish takes a pool, or the client of a transaction', () => {
    expect(publish(pool, 'orders', { id: 1 })).type.toBe<Promise<void>>()
    expect(publish).type.toBeCallableWith(client, 'orders', Buffer.from('bytes'), { listenChannel: 'mine' })
    expect(publish).type.not.toBeCallableWith('postgres://', 'orders', 1)
    expect(publish).type.not.toBeCallableWith(pool, 'orders')
  })

  test('an emitter knows its events', () => {
    const emitter = new Emitter<{ moved: (x: number, y: number) => void }>(pool)
    expect(emitter.emit).type.toBeCallableWith('moved', 1, 2)
    expect(emitter.emit).type.not.toBeCallableWith('moved', 'left')
    expect(emitter.emit).type.not.toBeCallableWith('jumped')
    expect(emitter.to('room').emit).type.toBeCallableWith('moved', 1, 2)
    expect(Emitter).type.toBeConstructableWith(client, '/admin', { channelPrefix: 'mine' })
    expect(Emitter).type.not.toBeConstructableWith(pool, '/', { prefix: 'mine' })
  })
})

describe('fastify-pg-websockets/socket.io', () => {
  test('a server takes the adapter', () => {
    expect(Server).type.toBeConstructableWith({ adapter: createAdapter(pool) })
    expect(createAdapter).type.toBeCallableWith(pool, { heartbeatInterval: 1000 })
    expect(createAdapter).type.not.toBeCallableWith(pool, { heartbeatInterval: '1s' })
  })
})

describe('fastify-pg-websockets/testing', () => {
  test('gives a database and tokens', () => {
    expect(embedded.start()).type.toBe<Promise<EmbeddedDatabase>>()
    expect(embedded.start).type.toBeCallableWith({ max_connections: '50' })
    expect(embedded.start).type.not.toBeCallableWith({ max_connections: 50 })
    expect(signToken({ mode: 'rw' }, 'secret')).type.toBe<string>()
  })
})
