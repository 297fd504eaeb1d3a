/** An exact origin, or all subdomains of a domain. */
const PATTERN = /^(?:[a-z][a-z0-9+.-]*:\/\/[^/?#\s*@]+|\*\.[^/?#\s*:@]+(?::\d+)?)$/i

/** Whether a text is valid in a list of allowed origins. */
export function isOriginPattern(text: string): boolean {
  return PATTERN.test(text)
}

/**
 * Whether a browser's origin (RFC 6454, section 7) is in a list.
 * @param origin the header `Origin`; undefined is allowed, because only clients that are not browsers omit the header
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
    // The pattern includes the dot, so that notexample.org is not a subdomain of example.org.
    return given.includes('://') && host.endsWith(pattern.slice(1)) && host.length > pattern.length - 1
  })
}
