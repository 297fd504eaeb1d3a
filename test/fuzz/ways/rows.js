// Rows in the tables that servers read, as somebody with rights may leave them. Afterwards, the tables are restored.
import fc from 'fast-check'
import { until } from '../target.js'
import {
  anyChannel,
  anyNumber,
  anyText,
  anyValue,
  deepJson,
  forDatabase,
  LISTEN_CHANNEL,
  token,
  tokens
} from '../values.js'

/** The greatest position of a row. Servers skip later messages up to the greatest position that they have read. */
const GREATEST = 200
const assigned = fc.oneof(
  fc.integer({ min: 1, max: GREATEST }),
  fc.constantFrom(0, -1, '-9223372036854775808')
)
const position = fc.oneof(assigned, fc.constantFrom('9007199254740993', '9223372036854775807'))
const time = fc.constantFrom('infinity', '-infinity', 'now', '294276-01-01', '4713-01-01 BC')
const channel = fc.oneof(anyChannel, anyText).map(forDatabase)
const body = fc
  .oneof(
    fc
      .record({ event: anyText, channel: anyChannel, payload: anyValue, claims: anyValue })
      .map((value) => JSON.stringify(value)),
    fc.constantFrom(
      '',
      '{',
      '{}',
      'null',
      '[]',
      '{"encoding":"base64"}',
      '{"payload":5,"encoding":"base64"}',
      '"encoding":"base64"}',
      '{"a":"encoding":"base64"}'
    ),
    deepJson.map((json) => `{"channel":"kept:a","payload":${json}}`),
    anyText
  )
  .map(forDatabase)
const bytes = fc
  .oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.constantFrom(
      Uint8Array.of(0xc1),
      Uint8Array.of(0x81, 0xa3),
      Uint8Array.of(0xdf, 255, 255, 255, 255),
      Uint8Array.of(0x90)
    )
  )
  .map((value) => `\\x${Buffer.from(value).toString('hex')}`)

/** Rows to insert. */
const anyRow = fc.oneof(
  fc.record({
    table: fc.constant('pgws.messages'),
    row: fc.record({ position: assigned, channel, body, expires_at: time })
  }),
  fc.record({
    table: fc.constant('pgws.large'),
    row: fc.record({ id: position, channel, body, created_at: time })
  }),
  fc.record({
    table: fc.constant('pgws.trimmed'),
    row: fc.record({ channel, position: assigned, trimmed_at: time })
  }),
  fc.record({ table: fc.constant('pgws.forgotten'), row: fc.record({ position: assigned }) }),
  fc.record({
    table: fc.constant('pgws.retention'),
    row: fc.record({
      pattern: fc.oneof(fc.constantFrom('fuzz:*', '**kept', '*'.repeat(2000)), anyText.map(forDatabase)),
      expression: fc.constantFrom('fuzz', '(', '^kept:b$', '(a+)+$'),
      max_age: fc.constantFrom('1 second', '178000000 years', '1 hour'),
      max_messages: fc.constantFrom(1, null, '9223372036854775807')
    })
  }),
  fc.record({
    table: fc.constant('socket_io_attachments'),
    row: fc.record({ id: position, payload: fc.option(bytes), created_at: time })
  }),
  fc.record({
    table: fc.constant('socket_io_attachments_packets'),
    row: fc.record({
      position,
      nsp: fc.constantFrom('/', '/any'),
      origin: anyText.map(forDatabase),
      seq: position,
      rooms: fc.constantFrom(null, '{}', '{NULL}', '{{a},{b}}'),
      body: fc.option(body),
      attachment: fc.option(bytes)
    })
  }),
  fc.record({
    table: fc.constant('socket_io_attachments_sessions'),
    row: fc.record({
      pid: anyText.map(forDatabase),
      nsp: fc.constantFrom('/', '/any'),
      body: bytes,
      disconnected_at: time
    })
  })
)
const anySettings = fc.record(
  {
    epoch: fc.constantFrom('', 'zzzzzzzz', 'ffffffff', '0', 'a'.repeat(9000), '\\"'),
    retention_version: fc.constantFrom(0, -1, '9007199254740993', '9223372036854775807')
  },
  { requiredKeys: [] }
)

export const rows = fc.record({
  way: fc.constant('rows'),
  rows: fc.array(anyRow, { minLength: 1, maxLength: 4 }),
  settings: fc.option(anySettings, { freq: 4 }),
  deleted: fc.constantFrom(
    undefined,
    undefined,
    undefined,
    'pgws.forgotten',
    'pgws.retention',
    'pgws.settings'
  ),
  reference: fc.oneof(position, anyNumber)
})

/** Errors because of impossible rows and missing tables are expected. */
const tried = (pool, text, values) =>
  pool.query(text, values).catch((error) => {
    if (error.code === undefined || /^(?:XX|57P|08)/.test(error.code)) throw error
  })

async function insert(pool, table, row) {
  const names = Object.keys(row)
  const values = Object.values(row).map((value) => value ?? null)
  const system = table === 'pgws.large' ? ' overriding system value' : ''
  await tried(
    pool,
    `insert into ${table} (${names})${system} values (${names.map((_, i) => `$${i + 1}`)})`,
    values
  )
}

export async function runRows({ rows, settings, deleted, reference }, { pool, http }) {
  for (const { table, row } of rows) await insert(pool, table, row)
  if (settings !== null) {
    for (const [name, value] of Object.entries(settings))
      await tried(pool, `update pgws.settings set ${name} = $1`, [value])
  }
  if (deleted !== undefined) await tried(pool, `delete from ${deleted}`)
  await pool.query(`select pg_notify('pgws', 'settings')`)
  // These make servers read the rows: notifications, clients that resume, and requests for history.
  const payloads = rows.flatMap(({ table, row }) => {
    const place = row.position ?? row.id ?? reference
    return ['message', 'large']
      .map((kind) => `{"pgws":"${kind}","position":${place},"channel":"kept:a"}`)
      .concat(table.startsWith('socket') ? [`{"uid":"stranger","type":3,"attachmentId":"${place}"}`] : [])
  })
  for (const payload of payloads) {
    const to = payload.startsWith('{"uid"') ? 'socket.io#/' : LISTEN_CHANNEL
    await pool.query('select pg_notify($1, $2)', [to, payload])
  }
  await tried(pool, 'select pgws.clean()')
  const headers = { authorization: `Bearer ${tokens.r}` }
  for (const path of [
    '/channels/kept:a/history',
    `/channels/kept:a/history?since=${encodeURIComponent(reference)}&limit=10`
  ]) {
    const response = await fetch(http + path, { headers })
    const text = await response.text()
    if (response.status === 500) throw new Error(`a server error: ${text.slice(0, 1000)}`)
  }
}

/** @returns false for a deadlock, after which the statement is repeated */
function isDeadlock(error) {
  if (error.code === '40P01') return false
  throw error
}

let restored = 0

/** Restores the tables, and waits until the server has read them, before honest clients are checked. */
export async function restoreRows({ pool, http }, { epoch, listen_channel }) {
  // Deadlocks are possible, because the server's statements lock these tables in another order.
  await until(
    () =>
      pool
        .query('truncate pgws.messages, pgws.large, pgws.trimmed, pgws.retention')
        .then(() => true, isDeadlock),
    'the tables are empty'
  )
  await pool.query(`select setval('pgws.positions', greatest(last_value, ${GREATEST})) from pgws.positions`)
  await pool.query('delete from pgws.forgotten; insert into pgws.forgotten values (0)')
  await pool.query(
    `insert into pgws.settings (version, epoch, listen_channel, retention_version) values (2, $1, $2, 1000)
     on conflict (only_row) do update set version = 2, epoch = $1, listen_channel = $2,
     retention_version = least(pgws.settings.retention_version, 1000000) + 1`,
    [epoch, listen_channel]
  )
  for (const table of ['', '_packets', '_sessions'])
    await pool.query(`delete from socket_io_attachments${table}`)
  const channel = `restored-${++restored}`
  await pool.query(
    `select pgws.retain('kept:*', '1 hour'), pgws.retain('kept-witness', '1 hour'), pgws.retain($1, '1 hour')`,
    [channel]
  )
  // A server that found no settings publishes as without a schema, until it has read them.
  const authorization = `Bearer ${token({ mode: 'w', channels: [channel] })}`
  await until(async () => {
    const headers = { authorization, 'content-type': 'application/json' }
    const response = await fetch(`${http}/publish`, {
      method: 'POST',
      headers,
      body: JSON.stringify({ channel, payload: null })
    })
    await response.text()
    const { rows } = await pool.query('select from pgws.messages where channel = $1', [channel])
    return rows.length > 0
  }, 'the server has read the settings')
}
