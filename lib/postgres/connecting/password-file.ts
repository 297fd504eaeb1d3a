import { readFileSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** https://www.postgresql.org/docs/current/libpq-pgpass.html */
export function passwordFor(
  parameters: ReadonlyMap<string, string>,
  env: NodeJS.ProcessEnv,
  host: string,
  port: number,
  database: string,
  user: string
): string | undefined {
  const file = parameters.get('passfile') ?? join(env.HOME ?? homedir(), '.pgpass')
  let lines: string[]
  try {
    // As in libpq, a file that others may read is ignored.
    if ((statSync(file).mode & 0o077) !== 0) return undefined
    lines = readFileSync(file, 'utf8').split('\n')
  } catch {
    return undefined
  }
  const wanted = [host.startsWith('/') ? 'localhost' : host, String(port), database, user]
  for (const line of lines) {
    if (line.startsWith('#')) continue
    // As in libpq, a backslash at the end is an ordinary character.
    const fields = (line.match(/(?:[^:\\]|\\.|\\$)*(?::|$)/gs) ?? []).map((field) =>
      field.replace(/:$/, '').replace(/\\(.)/g, '$1')
    )
    if (fields.length >= 5 && wanted.every((value, i) => fields[i] === '*' || fields[i] === value))
      return fields[4]
  }
  return undefined
}
