// Our server with one query for each message. The difference to ours.js is the effect of batching.
import { createRequire } from 'node:module'

// The copy of the module that our server uses.
const pg = createRequire(new URL('../../dist/', import.meta.url))('pg')

const { query } = pg.Client.prototype
pg.Client.prototype.query = function (text, values, ...more) {
  if (typeof text !== 'string' || !text.startsWith('select count(pg_notify'))
    return query.call(this, text, values, ...more)
  const [channel, payloads] = values
  return (async () => {
    for (const payload of payloads) await query.call(this, 'select pg_notify($1, $2)', [channel, payload])
    return { rows: [{ sent: payloads.length }] }
  })()
}
await import('./ours.js')
