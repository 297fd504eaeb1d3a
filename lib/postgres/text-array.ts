/** The OID of the type text, the same in every database (src/include/catalog/pg_type.dat). */
const TEXT = 25

/** Dimensions, whether there are nulls, the elements' type; then the dimension's length and its first subscript. */
const HEADER = 5 * 4

/**
 * An array of texts as a parameter in PostgreSQL's binary format (array_recv in arrayfuncs.c), which `pg` sends as it is.
 * Neither side escapes, quotes or parses the elements, and a null is one whatever array_nulls says
 * (https://www.postgresql.org/docs/current/runtime-config-compatible.html). `pg` itself writes an array character by
 * character, which holds up all else for half a second where there are 60,000 messages.
 * @returns the value of a parameter that the statement says to be `pg_catalog.text[]`
 */
export function textArray(texts: readonly (string | null)[]): Buffer {
  const lengths = texts.map((text) => (text === null ? -1 : Buffer.byteLength(text)))
  const size = lengths.reduce((size, length) => size + 4 + Math.max(0, length), HEADER)
  const array = Buffer.allocUnsafe(size)
  array.writeInt32BE(1, 0)
  array.writeInt32BE(texts.includes(null) ? 1 : 0, 4)
  array.writeInt32BE(TEXT, 8)
  array.writeInt32BE(texts.length, 12)
  array.writeInt32BE(1, 16)
  let at = HEADER
  for (const [index, text] of texts.entries()) {
    at = array.writeInt32BE(lengths[index]!, at)
    if (text !== null) at += array.write(text, at)
  }
  return array
}
