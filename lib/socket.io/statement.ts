import type { Tables } from './tables.js'
import { type Packet, textOf } from './wire.js'

/**
 * The statement that publishes packets, in order, in one transaction: it inserts the rows and notifies at once, so that
 * large and small packets keep their order.
 *
 * Packets that are kept get positions in the order of their commits, which is that of their notifications: who hands
 * them out holds the lock of one row to the end of the transaction. A sequence alone would not do. The row is never
 * changed, so that serializable transactions do not fail on it.
 */
export function publishStatement(
  tables: Tables,
  packets: readonly Packet[]
): [text: string, values: unknown[]] {
  const channels = packets.map(({ databaseChannel }) => databaseChannel)
  const attachments = packets.some(({ header }) => header !== undefined)
  const kept = packets.some((packet) => packet.kept !== undefined)
  if (!attachments && !kept) {
    return [
      // count(): one row comes back, not one for each packet.
      'select count(pg_notify(channel, body)) from unnest($1::text[], $2::text[]) as n (channel, body)',
      [channels, packets.map(({ payload }) => payload)]
    ]
  }
  const values = [
    channels,
    packets.map(({ header, payload }) => header ?? payload),
    packets.map(({ header, payload }) => (header === undefined ? null : payload)),
    ...(kept
      ? [
          packets.map(({ kept }) => (kept === undefined ? null : textOf(kept.nsp))),
          packets.map(({ kept }) => kept?.origin ?? null),
          packets.map(({ kept }) => kept?.seq ?? null),
          packets.map(({ kept }) => arrayLiteral(kept?.rooms)),
          packets.map(({ kept }) => arrayLiteral(kept?.except))
        ]
      : [])
  ]
  const columns = `channel, body, attachment${kept ? ', nsp, origin, seq, rooms, excluded' : ''}`
  const arrays = `$1::text[], $2::text[], $3::text[]${kept ? ', $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[]' : ''}`
  const text = `
    with input as materialized (
      select * from unnest(${arrays}) with ordinality as i (${columns}, place)
    ), attached as (
      insert into ${tables.attachments} (payload)
      select decode(attachment, 'base64') from input where attachment is not null order by place
      returning id
    ), numbered as (
      select a.id, i.place
      from (select id, row_number() over (order by id) as k from attached) a
      join (select place, row_number() over (order by place) as k from input where attachment is not null) i using (k)
    )${
      kept
        ? `, turn as materialized (
      select from ${tables.recovery} where name = 'turn' for update
    ), kept as (
      insert into ${tables.packets} (nsp, origin, seq, rooms, excluded, body, attachment)
      select i.nsp, i.origin, i.seq, i.rooms::text[], i.excluded::text[],
        case when i.attachment is null then i.body end, decode(i.attachment, 'base64')
      from turn, (select * from input where origin is not null order by place) i
      on conflict (origin, seq) do nothing
      returning position, origin, seq
    )`
        : ''
    }
    select count(pg_notify(channel, body)) from (
      select i.channel, ${
        kept
          ? `case when k.position is not null then '{"position":' || k.position || ',' || substr(i.body, 2) else i.body end`
          : 'i.body'
      } || coalesce(a.id || '}', '') as body
      from input i left join numbered a using (place)
      ${kept ? 'left join kept k on k.origin = i.origin and k.seq = i.seq where i.origin is null or k.position is not null' : ''}
      order by i.place
    ) n`
  return [text, values]
}

/** PostgreSQL's text of an array (arrays.html#ARRAYS-INPUT), since arrays of arrays cannot differ in length. */
function arrayLiteral(names: readonly string[] | undefined): string | null {
  if (names === undefined) return null
  return `{${names.map((name) => `"${textOf(name).replace(/["\\]/g, '\\$&')}"`).join(',')}}`
}
