import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Owner } from './helper.js'
import { root } from './root.js'

const run = promisify(execFile)

/**
 * Commits of earlier releases: the last one without numbered migrations, the last one without a sequencer, and the last
 * one without a bus.
 */
export const RELEASES = [
  'e8842c997735a70bdf4332b1a38915d5c24e2bd2',
  'c649ea6ebb89288707424d5e329c384a117d4957',
  '3db29c87a4c5f545db9ee699468797303404eb07'
] as const

/**
 * Builds a previous release from the repository's history.
 * @param commit one of RELEASES
 * @returns the path of its command; undefined if the commit is not in the history, as in a shallow clone
 */
export async function previousRelease(t: Owner, commit: string): Promise<string | undefined> {
  const git = (...args: string[]) => run('git', args, { cwd: root, maxBuffer: 1e8 })
  try {
    await git('cat-file', '-e', `${commit}^{commit}`)
  } catch {
    return undefined
  }
  const folder = mkdtempSync(join(tmpdir(), 'pgws-previous-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const archive = join(folder, 'source.tar')
  const source = join(folder, 'source')
  await git('archive', `--output=${archive}`, commit)
  mkdirSync(source)
  await run('tar', ['-xf', archive, '-C', source])
  symlinkSync(join(root, 'node_modules'), join(source, 'node_modules'))
  await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json'], {
    cwd: source
  })
  const sql = join(source, 'lib/schema/sql')
  if (existsSync(sql)) cpSync(sql, join(source, 'dist/lib/schema/sql'), { recursive: true })
  return join(source, 'dist/cli.js')
}
