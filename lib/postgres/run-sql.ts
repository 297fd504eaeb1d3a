import type pg from 'pg'
import { asError } from '../errors.js'

/**
 * Runs SQL and prints the results as psql does.
 * @param client a connection; it is closed
 * @param text one statement or several
 * @param out where to print
 * @throws Error with PostgreSQL's message, detail and hint
 */
export async function runSql(
  client: pg.Client,
  text: string,
  out: NodeJS.WritableStream = process.stdout
): Promise<void> {
  client.on('notice', ({ severity, message }) => out.write(`${severity}:  ${message}\n`))
  try {
    // For several statements, the result is an array.
    const results = [await client.query({ text, rowMode: 'array' })].flat()
    for (const result of results) out.write(format(result))
  } catch (error) {
    const { message, detail, hint }: Error & { detail?: string; hint?: string } = asError(error)
    throw new Error(
      [`ERROR:  ${message}`, detail && `DETAIL:  ${detail}`, hint && `HINT:  ${hint}`]
        .filter(Boolean)
        .join('\n')
    )
  } finally {
    await client.end()
  }
}

function format({ fields, rows, command, rowCount }: pg.QueryArrayResult): string {
  if (fields.length === 0) return `${[command, rowCount].filter((part) => part !== null).join(' ')}\n`
  const table = rows.map((row) => row.map(show))
  const widths = fields.map(({ name }, i) => Math.max(name.length, ...table.map((row) => row[i]!.length)))
  const line = (cells: string[]) =>
    cells
      .map((cell, i) => ` ${cell.padEnd(widths[i]!)} `)
      .join('|')
      .trimEnd()
  return `${[
    line(fields.map(({ name }) => name)),
    widths.map((width) => '-'.repeat(width + 2)).join('+'),
    ...table.map(line),
    `(${rows.length} ${rows.length === 1 ? 'row' : 'rows'})`
  ].join('\n')}\n`
}

function show(value: unknown): string {
  if (value === null || value === undefined) return ''
  if (value instanceof Date) return value.toISOString()
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
