import { readdirSync, readFileSync } from 'node:fs'

/** One step of the schema `pgws`. Its file is never changed after its release. */
export interface Migration {
  /** 1, 2, 3, … */
  number: number
  name: string
  sql: string
  /** The last migration that a server must know to work with this one. */
  oldestServer: number
}

/** Migrations before this one do not say which servers can work with them. A server must know them. */
const FIRST_ADDITIVE = 3

/**
 * Reads the migrations from their files, `sql/<number>-<name>.sql`. A migration that is not additive names the last one that
 * a server must know in a line `-- oldest server: <number>`.
 * @throws Error if a number is missing or duplicate
 */
export function readMigrations(folder = new URL('./sql/', import.meta.url)): Migration[] {
  const files = readdirSync(folder)
    .filter((file) => file.endsWith('.sql'))
    .sort()
  let oldestServer = 0
  return files.map((file, index) => {
    const [, digits, name] = /^(\d{3})-(.+)\.sql$/.exec(file) ?? []
    const number = index + 1
    if (Number(digits) !== number) {
      throw new Error(`lib/schema/sql/${file}: expected the number ${String(number).padStart(3, '0')}`)
    }
    const sql = readFileSync(new URL(file, folder), 'utf8')
    const named = /^-- oldest server: (\d+)$/m.exec(sql)?.[1]
    oldestServer = number < FIRST_ADDITIVE ? number : named === undefined ? oldestServer : Number(named)
    return { number, name: name!, sql, oldestServer }
  })
}
