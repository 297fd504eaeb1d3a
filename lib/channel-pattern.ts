/**
 * Whether a channel name matches a pattern. `*` matches any characters except `:`, `**` matches any characters, all other
 * characters match themselves. The time is bounded by the product of both lengths, for any pattern.
 */
export function matchesPattern(pattern: string, name: string): boolean {
  // Most patterns are a name, or its beginning.
  const star = pattern.indexOf('*')
  if (star === -1) return pattern === name
  if (!name.startsWith(pattern.slice(0, star))) return false
  if (star === pattern.length - 2 && pattern.endsWith('**')) return true
  if (star === pattern.length - 1) return !name.includes(':', star)
  const parts = pattern.match(/\*\*|\*|[^*]+/g) ?? []
  // reached[i]: the parts so far match the first i characters.
  let reached = new Uint8Array(name.length + 1)
  reached[0] = 1
  for (const part of parts) {
    const next = new Uint8Array(name.length + 1)
    for (let i = 0; i <= name.length; i++) {
      if (part === '**' || part === '*') {
        const before = i > 0 && next[i - 1] === 1 && (part === '**' || name[i - 1] !== ':')
        next[i] = reached[i] === 1 || before ? 1 : 0
      } else if (reached[i] === 1 && name.startsWith(part, i)) {
        next[i + part.length] = 1
      }
    }
    reached = next
  }
  return reached[name.length] === 1
}
