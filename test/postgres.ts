import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { Test } from 'tap'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../lib/embedded-postgres/server.js'

const FAST = {
  fsync: 'off',
  synchronous_commit: 'off',
  autovacuum: 'off',
  max_connections: '200'
}

/** What a PostgreSQL was started with, by its data folder. */
const starts = new Map<string, { folder: string; settings: Record<string, string> }>()

/**
 * A PostgreSQL for one test file, ended and removed with it.
 * @param prepare may put data into its folder, before it starts
 */
export async function testPostgres(
  t: Test,
  settings: Record<string, string> = {},
  prepare: (folder: string) => void = () => {}
): Promise<EmbeddedPostgres> {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-test-'))
  prepare(folder)
  const start = { folder, settings: { ...FAST, ...settings } }
  const postgres = await startEmbeddedPostgres(start)
  starts.set(postgres.dataFolder, start)
  t.teardown(async () => {
    await postgres.stop()
    // As root the data is elsewhere.
    for (const path of [folder, postgres.home, postgres.socketFolder]) {
      rmSync(path, { recursive: true, force: true })
    }
  })
  return postgres
}

/** The folder that a PostgreSQL was started with. */
export function folderOf({ dataFolder }: EmbeddedPostgres): string {
  return starts.get(dataFolder)!.folder
}

/** Starts a PostgreSQL again that has ended, where it was. */
export async function restartPostgres(t: Test, ended: EmbeddedPostgres): Promise<EmbeddedPostgres> {
  await ended.stop()
  const postgres = await startEmbeddedPostgres(starts.get(ended.dataFolder)!)
  t.teardown(() => postgres.stop())
  return postgres
}

/** A new, empty database; in UTF8, unless another encoding is named. */
export async function createDatabase(postgres: EmbeddedPostgres, encoding?: string): Promise<string> {
  const name = `test_${randomUUID().replaceAll('-', '')}`
  const client = new pg.Client(postgres.uri)
  await client.connect()
  const locale = encoding && `encoding '${encoding}' template template0 lc_collate 'C' lc_ctype 'C'`
  await client.query(`create database ${name} ${locale ?? ''}`)
  await client.end()
  return postgres.uri.replace('/postgres?', `/${name}?`)
}
