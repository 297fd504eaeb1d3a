import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import pg from 'pg'
import type { Test } from 'tap'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../lib/embedded-postgres.js'

/** A PostgreSQL for one test file, ended and removed with it. */
export async function testPostgres(
  t: Test,
  settings: Record<string, string> = {}
): Promise<EmbeddedPostgres> {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-test-'))
  const postgres = await startEmbeddedPostgres({
    folder,
    settings: {
      fsync: 'off',
      synchronous_commit: 'off',
      autovacuum: 'off',
      max_connections: '200',
      ...settings
    }
  })
  t.teardown(async () => {
    await postgres.stop()
    // As root the data is elsewhere.
    for (const path of [folder, dirname(postgres.dataFolder), postgres.socketFolder]) {
      rmSync(path, { recursive: true, force: true })
    }
  })
  return postgres
}

/** A new, empty database. */
export async function createDatabase(postgres: EmbeddedPostgres): Promise<string> {
  const name = `test_${randomUUID().replaceAll('-', '')}`
  const client = new pg.Client(postgres.uri)
  await client.connect()
  await client.query(`create database ${name}`)
  await client.end()
  return postgres.uri.replace('/postgres?', `/${name}?`)
}
