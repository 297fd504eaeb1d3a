/** An array with at least this many elements is large. */
const LARGE = 500

/** An array parameter with its type, such as `$2::pg_catalog.text[]`. */
const ARRAY = /\$(\d+)::([\w.]+)\[\]/g

/**
 * Passes array parameters as JSON if they are large or contain nulls. `pg` writes an array character by character, which
 * blocks the event loop for half a second with 60,000 messages; JSON.stringify takes a twentieth of that. Nulls must not
 * be written as arrays, because PostgreSQL reads them as the word "null" where `array_nulls` is off
 * (https://www.postgresql.org/docs/current/runtime-config-compatible.html).
 * @param text a statement that casts each of its array parameters, such as `$2::pg_catalog.text[]`
 * @param values the parameters; elements of arrays are texts, numbers or nulls
 */
export function withLargeArrays(text: string, values: unknown[]): [text: string, values: unknown[]] {
  const isLarge = (value: unknown) => Array.isArray(value) && (value.length >= LARGE || value.includes(null))
  if (!values.some(isLarge)) return [text, values]
  const expression = (parameter: string, place: string, type: string) =>
    isLarge(values[Number(place) - 1])
      ? `array(select e::${type} from pg_catalog.json_array_elements_text($${place}::pg_catalog.json) e)`
      : parameter
  return [
    text.replace(ARRAY, expression),
    values.map((value) => (isLarge(value) ? JSON.stringify(value) : value))
  ]
}
