// Our server, sending one query for each message: what batching brings is the difference to ours.js.
import pg from 'pg'

const { query } = pg.Client.prototype
pg.Client.prototype.query = function (text, values, ...more) {
  if (typeof text !== 'string' || !text.startsWith('select count(pg_notify'))
    return query.call(this, text, values, ...more)
  const [channel, payloads] = values
  return (async () => {
    for (const payload of payloads) await query.call(this, 'select pg_notify($1, $2)', [channel, payload])
  })()
}
await import('./ours.js')
