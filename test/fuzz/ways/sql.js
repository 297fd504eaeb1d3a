// Calls of all functions of the schema `pgws`, as a role that may do nothing else.
import fc from 'fast-check'
import { anyChannel, anyNumber, anyText, anyValue, deepJson, forDatabase } from '../values.js'

/** Values as text, by type: PostgreSQL reads them. */
const BY_TYPE = {
  text: fc.oneof(anyChannel, anyText).map(forDatabase),
  jsonb: fc.oneof(
    anyValue.map((value) => forDatabase(JSON.stringify(value) ?? 'null')),
    deepJson
  ),
  bytea: fc.uint8Array({ maxLength: 10_000 }).map((bytes) => `\\x${Buffer.from(bytes).toString('hex')}`),
  interval: fc.constantFrom('1 hour', '0', '-1 day', '1 microsecond', '178000000 years', 'infinity'),
  integer: fc.oneof(fc.integer(), fc.constantFrom(0, -1, 1, 2 ** 31 - 1)).map(String),
  bigint: fc.oneof(fc.nat(), fc.constantFrom(0, -1, '9223372036854775807')).map(String),
  boolean: fc.constantFrom('true', 'false'),
  regclass: fc.constantFrom('pgws.messages', 'pg_class', 'fuzzed', 'nothing'),
  'text[]': fc.array(fc.oneof(anyChannel, anyText).map(forDatabase), { maxLength: 4 }).map(literal),
  'interval[]': fc.constantFrom('{}', '{1 hour}', '{NULL}', '{1 hour,NULL}'),
  'double precision': anyNumber.map(String)
}

function literal(texts) {
  return `{${texts.map((text) => `"${text.replace(/["\\]/g, '\\$&')}"`).join(',')}}`
}

const anyArguments = fc.record(
  Object.fromEntries(
    Object.entries(BY_TYPE).map(([type, values]) => [
      type,
      fc.array(fc.option(values, { freq: 10 }), { minLength: 6, maxLength: 6 })
    ])
  )
)

export const sql = fc.record({
  way: fc.constant('sql'),
  // The number of the function.
  which: fc.nat(),
  arguments: anyArguments
})

/** The functions that strangers may call, with the types of their arguments. */
async function functionsOf(pool) {
  const { rows } = await pool.query(`
    select p.oid::regprocedure::text as signature, p.oid::regproc::text as name,
      array(select format_type(t, null) from unnest(p.proargtypes) t) as types
    from pg_proc p
    where p.pronamespace = 'pgws'::regnamespace and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype
      and has_function_privilege('fuzz_publisher', p.oid, 'execute')
    order by 1`)
  return rows
}

export async function prepareSql({ pool }) {
  await pool.query(`
    do $$ begin
      if not exists (select from pg_roles where rolname = 'fuzz_publisher') then create role fuzz_publisher; end if;
    end $$;
    create table if not exists fuzzed (id integer primary key, name text);
    grant select, insert, update, delete on fuzzed to fuzz_publisher;
    grant pgws_publisher to fuzz_publisher`)
}

export async function runSql({ which, arguments: given }, { pool }) {
  const functions = await functionsOf(pool)
  const { name, types } = functions[which % functions.length]
  const taken = {}
  const values = types.map((type) => {
    taken[type] = (taken[type] ?? 0) + 1
    return given[type]?.[taken[type] % 6] ?? null
  })
  const client = await pool.connect()
  try {
    await client.query('set role fuzz_publisher')
    const places = types.map((type, index) => `$${index + 1}::text::${type}`)
    await client.query(`select ${name}(${places})`, values)
  } catch (error) {
    // An error is an answer. A crash of PostgreSQL's backend is not.
    if (error.code === undefined || /^(?:XX|57P|08)/.test(error.code)) throw error
  } finally {
    await client.query('reset role').catch(() => {})
    client.release()
  }
}
