/** An exact origin, or all subdomains of a domain. */
const PATTERN = /^(?:[a-z][a-z0-9+.-]*:\/\/[^/?#\s*@]+|\*\.[^/?#\s*:@]+(?::\d+)?)$/i

/** Whether a text can stand in a list of allowed origins. */
export function isOriginPattern(text: string): boolean {
  return PATTERN.test(text)
}

/**
 * Whether a browser's origin (RFC 6454, section 7) is in a list.
 * @param origin the header `Origin`; none comes from what is no browser, and passes
 * @param allowed exact origins (`https://example.org`), or `*.example.org` for every subdomain with any scheme;
 *   undefined allows all
 */
export function isAllowedOrigin(origin: string | undefined, allowed: readonly string[] | undefined): boolean {
  if (allowed === undefined || origin === undefined) return true
  const given = origin.toLowerCase()
  const host = given.slice(given.indexOf('://') + 3)
  return allowed.some((entry) => {
    const pattern = entry.toLowerCase()
    if (!pattern.startsWith('*.')) return given === pattern
    // Up to the dot, so that notexample.org is not taken for a subdomain of example.org.
    return given.includes('://') && host.endsWith(pattern.slice(1)) && host.length > pattern.length - 1
  })
}
