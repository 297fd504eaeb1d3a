/** From so many elements on, an array is large. */
const LARGE = 500

/** An array parameter with its type, as `$2::pg_catalog.text[]`. */
const ARRAY = /\$(\d+)::([\w.]+)\[\]/g

/**
 * Has large array parameters travel as JSON, and those with nulls: where array_nulls is off, a null of an array's text is
 * the word (https://www.postgresql.org/docs/current/runtime-config-compatible.html). `pg` writes an array character by character, which holds up all else for
 * half a second where there are 60,000 messages; JSON.stringify takes a twentieth of that.
 * @param text a statement that says the type of each of its array parameters, as `$2::pg_catalog.text[]`
 * @param values lists of texts, numbers or nulls among others
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
