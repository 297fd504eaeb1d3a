import type { Query } from '../postgres/index.js'

/** A retention rule, as `pgws.retain` has made it. */
export interface RetentionSummary {
  pattern: string
  /** How long messages are stored, such as `1 day 2 hours`. */
  age: string
  /** How many messages of a channel are stored; null: any number. */
  maxMessages: number | null
  sql: RuleSql
}

/** A watch of a table, as `pgws.watch` has made it. */
export interface WatchSummary {
  /** With its schema, quoted where SQL needs it. */
  table: string
  channel: string
  /** `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE` */
  events: string[]
  /** The columns that changes have; null: all. */
  columns: string[] | null
  /** Which changes are published; null: all. */
  condition: string | null
  sql: RuleSql
}

/** Statements to paste. */
export interface RuleSql {
  /** Makes the rule once more. Change its arguments to change the rule. */
  change: string
  /** Ends it. */
  end: string
}

/** The parts of an interval, largest first, because the text of an interval depends on the session's IntervalStyle. */
const PARTS = ['year', 'month', 'day', 'hour', 'minute', 'second'] as const

const RETENTION = `select r.pattern, r.max_messages::pg_catalog.text as max_messages,
  pg_catalog.json_build_array(${PARTS.map((part) => `extract(${part} from r.max_age)`).join(', ')}) as parts
  from pgws.retention r order by r.pattern`

/** @returns the retention rules, ordered by pattern */
export async function listRetention(query: Query): Promise<RetentionSummary[]> {
  const { rows } = await query<{ pattern: string; max_messages: string | null; parts: number[] }>(RETENTION)
  return rows.map(({ pattern, max_messages: most, parts }) => {
    const age = ageOf(parts)
    const more = most === null ? '' : `, ${most}`
    return {
      pattern,
      age,
      maxMessages: most === null ? null : Number(most),
      sql: {
        change: `select pgws.retain(${literal(pattern)}, ${literal(age)}${more});`,
        end: `select pgws.unretain(${literal(pattern)});`
      }
    }
  })
}

function ageOf(parts: readonly number[]): string {
  const named = PARTS.map((part, index) => ({ part, amount: parts[index]! })).filter(
    ({ amount }) => amount !== 0
  )
  return named.map(({ part, amount }) => `${amount} ${part}${amount === 1 ? '' : 's'}`).join(' ')
}

/**
 * The triggers of `pgws.watch`, one for each event. Arguments of a trigger are separated by NUL: the channel, and the columns
 * as JSON. (A third one marks a trigger for rows that move between partitions, which is not of a watched event.)
 */
const WATCHES = `select pg_catalog.format('%I.%I', n.nspname, c.relname) as table,
  pg_catalog.convert_from(
    pg_catalog.substring(t.tgargs, 1, a.at operator(pg_catalog.-) 1), pg_catalog.getdatabaseencoding()) as channel,
  pg_catalog.convert_from(
    pg_catalog.substring(t.tgargs, a.at operator(pg_catalog.+) 1,
      pg_catalog.octet_length(t.tgargs) operator(pg_catalog.-) a.at operator(pg_catalog.-) 1),
    pg_catalog.getdatabaseencoding()) as columns,
  case when (t.tgtype operator(pg_catalog.&) 4::pg_catalog.int2) operator(pg_catalog.>) 0 then 'INSERT'
    when (t.tgtype operator(pg_catalog.&) 8::pg_catalog.int2) operator(pg_catalog.>) 0 then 'DELETE'
    when (t.tgtype operator(pg_catalog.&) 16::pg_catalog.int2) operator(pg_catalog.>) 0 then 'UPDATE'
    else 'TRUNCATE' end as event,
  case when t.tgqual is null then null else pg_catalog.pg_get_triggerdef(t.oid) end as definition
  from pg_catalog.pg_trigger t
  join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) t.tgrelid
  join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
  join pg_catalog.pg_proc p on p.oid operator(pg_catalog.=) t.tgfoid
  join pg_catalog.pg_namespace f on f.oid operator(pg_catalog.=) p.pronamespace,
  lateral (select pg_catalog.position(t.tgargs, '\\x00'::pg_catalog.bytea) as at) a
  where f.nspname operator(pg_catalog.=) 'pgws'
    and p.proname operator(pg_catalog.=) any ('{tell,tell_partitioned}'::pg_catalog.name[])
    and t.tgparentid operator(pg_catalog.=) 0 and t.tgnargs operator(pg_catalog.=) 2
  order by 1, 2, 4`

interface WatchRow {
  table: string
  channel: string
  columns: string
  event: string
  definition: string | null
}

/** @returns the watched tables, ordered by table and channel */
export async function listWatches(query: Query): Promise<WatchSummary[]> {
  const { rows } = await query<WatchRow>(WATCHES)
  const watches = new Map<string, Omit<WatchSummary, 'sql'>>()
  for (const { table, channel, columns, event, definition } of rows) {
    const key = JSON.stringify([table, channel])
    const watch = watches.get(key) ?? {
      table,
      channel,
      events: [],
      // WATCHES makes it.
      columns: JSON.parse(columns) as string[] | null,
      condition: null
    }
    watch.events.push(event)
    watch.condition ??= definition === null ? null : conditionOf(definition, event)
    watches.set(key, watch)
  }
  return [...watches.values()].map((watch) => ({ ...watch, sql: sqlOf(watch) }))
}

/** The condition of a trigger, with `record` for the row, as `pgws.watch` takes it. */
function conditionOf(definition: string, event: string): string | null {
  const [, condition] = /\bWHEN \((.*)\) EXECUTE FUNCTION /s.exec(definition) ?? []
  const row = event === 'DELETE' ? 'old.' : 'new.'
  // Not in literals and quoted names.
  return (
    condition?.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"|\b(?:old|new)\./gi, (found) =>
      found.toLowerCase() === row ? 'record.' : found
    ) ?? null
  )
}

function sqlOf({ table, channel, events, columns, condition }: Omit<WatchSummary, 'sql'>): RuleSql {
  const which = `${literal(table)}, ${literal(channel)}`
  const more = [
    `events => ${arrayOf(events)}`,
    ...(columns === null ? [] : [`columns => ${arrayOf(columns)}`]),
    ...(condition === null ? [] : [`condition => ${literal(condition)}`])
  ]
  return {
    change: `select pgws.watch(${which}, ${more.join(', ')});`,
    end: `select pgws.unwatch(${which});`
  }
}

const arrayOf = (texts: readonly string[]) => `array[${texts.map(literal).join(', ')}]`

/**
 * A text as a literal, whether or not `standard_conforming_strings` is on
 * (https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE).
 */
function literal(text: string): string {
  const quoted = `'${text.replaceAll("'", "''")}'`
  return text.includes('\\') ? `E${quoted.replaceAll('\\', '\\\\')}` : quoted
}
