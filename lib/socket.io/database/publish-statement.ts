import { textArray } from '../../postgres/index.js'
import { type Packet, textOf } from '../packets/packet.js'
import type { Tables } from './tables.js'

/**
 * Builds the statement that publishes packets, in order, in one transaction. It inserts the rows and sends the
 * notifications together, so that large and small packets keep their order.
 *
 * Kept packets get positions in the order of their commits, which is also the order of their notifications. For this, the
 * statement locks one row until the end of the transaction. A sequence alone does not give that order. The row is never
 * changed, so that serializable transactions do not fail because of it.
 */
export function publishStatement(
  tables: Tables,
  packets: readonly Packet[]
): [text: string, values: unknown[]] {
  const channels = textArray(packets.map(({ namespaceChannel }) => namespaceChannel))
  const attachments = packets.some(({ header }) => header !== undefined)
  const kept = packets.some((packet) => packet.kept !== undefined)
  if (!attachments && !kept) {
    return [
      // count() returns one row instead of one for each packet.
      `select pg_catalog.count(pg_catalog.pg_notify(channel, body))
       from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) as n (channel, body)`,
      [channels, textArray(packets.map(({ payload }) => payload))]
    ]
  }
  const values = [
    channels,
    textArray(packets.map(({ header, payload }) => header ?? payload)),
    textArray(packets.map(({ header, payload }) => (header === undefined ? null : payload))),
    ...(kept
      ? [
          textArray(packets.map(({ kept }) => (kept === undefined ? null : textOf(kept.nsp)))),
          textArray(packets.map(({ kept }) => kept?.origin ?? null)),
          textArray(packets.map(({ kept }) => kept?.seq.toString() ?? null)),
          textArray(packets.map(({ kept }) => arrayLiteral(kept?.rooms))),
          textArray(packets.map(({ kept }) => arrayLiteral(kept?.except)))
        ]
      : [])
  ]
  const columns = `channel, body, attachment${kept ? ', nsp, origin, seq, rooms, excluded' : ''}`
  const arrays = values.map((_, index) => `pg_catalog.unnest($${index + 1}::pg_catalog.text[])`).join(', ')
  const text = `
    with input as materialized (
      select * from rows from (${arrays}) with ordinality as i (${columns}, place)
    ), attached as (
      insert into ${tables.attachments} (payload)
      select pg_catalog.decode(attachment, 'base64') from input where attachment is not null order by place
      returning id
    ), numbered as (
      select a.id, i.place
      from (select id, pg_catalog.row_number() over (order by id) as k from attached) a
      join (
        select place, pg_catalog.row_number() over (order by place) as k from input where attachment is not null
      ) i on i.k operator(pg_catalog.=) a.k
    )${
      kept
        ? `, turn as materialized (
      select from ${tables.recovery} where name operator(pg_catalog.=) 'turn' for update
    ), kept as (
      insert into ${tables.packets} (nsp, origin, seq, rooms, excluded, body, attachment)
      select i.nsp, i.origin, i.seq::pg_catalog.int8, i.rooms::pg_catalog.text[], i.excluded::pg_catalog.text[],
        case when i.attachment is null then i.body end, pg_catalog.decode(i.attachment, 'base64')
      from turn, (select * from input where origin is not null order by place) i
      on conflict (origin, seq) do nothing
      returning position, origin, seq
    )`
        : ''
    }
    select pg_catalog.count(pg_catalog.pg_notify(channel, body)) from (
      select i.channel, pg_catalog.concat(${
        kept
          ? `case when k.position is null then i.body
                else pg_catalog.concat('{"position":', k.position, ',', pg_catalog.substr(i.body, 2)) end`
          : 'i.body'
      }, case when a.id is not null then pg_catalog.concat(a.id, '}') end) as body
      from input i left join numbered a on a.place operator(pg_catalog.=) i.place
      ${kept ? KEPT_ONLY : ''}
      order by i.place
    ) n`
  return [text, values]
}

/** Prevents that a packet which is sent twice is notified twice. */
const KEPT_ONLY = `left join kept k on k.origin operator(pg_catalog.=) i.origin and k.seq operator(pg_catalog.=) i.seq::pg_catalog.int8
      where i.origin is null or k.position is not null`

/** An array as PostgreSQL's text (arrays.html#ARRAYS-INPUT), because the arrays in an array must have the same length. */
function arrayLiteral(names: readonly string[] | undefined): string | null {
  if (names === undefined) return null
  return `{${names.map((name) => `"${textOf(name).replace(/["\\]/g, '\\$&')}"`).join(',')}}`
}
