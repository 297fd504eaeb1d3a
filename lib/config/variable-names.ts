/** A name with at most this many edits (see `distance`) is a misspelling. */
const MISSPELLED = 2

/**
 * The variables that Kubernetes and Docker add to a container's environment for a service whose name begins with `pgws`
 * (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables): `PGWS_SERVICE_HOST`,
 * `PGWS_SERVICE_PORT_HTTP`, `PGWS_PORT_3000_TCP_ADDR`, and for `pgws-db` the same with `PGWS_DB_`.
 */
const SERVICE_LINK =
  /^PGWS_(\w{1,63}_)?(SERVICE_HOST|SERVICE_PORT(_\w{1,63})?|PORT_\d{1,5}_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$/

/** The value that they give the variable `PGWS_PORT`. */
const SERVICE_URL = /^(tcp|udp|sctp):\/\//

/**
 * Looks for `PGWS_*` variables that nothing reads.
 * @param environment the variables; an empty one is unset
 * @param known the names of the variables that are read
 * @returns a sentence for each misspelled variable, and the names of all other unknown ones. The variables that Kubernetes
 *   adds are in neither list.
 */
export function unknownVariables(
  environment: Record<string, string | undefined>,
  known: readonly string[]
): { misspelled: string[]; unknown: string[] } {
  const misspelled: string[] = []
  const unknown: string[] = []
  for (const [name, value = ''] of Object.entries(environment)) {
    if (!name.startsWith('PGWS_') || known.includes(name) || value.trim() === '') continue
    if (SERVICE_LINK.test(name) || (name.endsWith('_PORT') && isServiceUrl(value))) continue
    const distances = known.map((candidate) => distance(name, candidate))
    const least = Math.min(...distances)
    const nearest = known.filter((_, index) => distances[index] === least)
    if (least <= MISSPELLED) misspelled.push(`${name} is unknown: did you mean ${nearest.join(' or ')}?`)
    else unknown.push(name)
  }
  return { misspelled, unknown }
}

/** Whether a value is the address that Kubernetes gives a variable such as `PGWS_PORT`. */
export function isServiceUrl(value: string): boolean {
  return SERVICE_URL.test(value.trim())
}

/**
 * Explains where the address of a service comes from.
 * @param variable the variable that has it
 */
export function serviceUrlProblem(variable: string): string {
  const service = variable
    .replace(/_PORT$/, '')
    .toLowerCase()
    .replaceAll('_', '-')
  return `${variable} holds the address of a service (tcp://…), as Kubernetes sets it for a service called "${service}" in the same namespace: set ${variable} in the container's own env, which wins, or set enableServiceLinks: false in the pod's spec, or rename the service`
}

/** The Levenshtein distance: how many letters must be inserted, removed or replaced to turn one text into the other. */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, column) => column)
  for (let i = 1; i <= from.length; i++) {
    const next = [i]
    for (let j = 1; j <= to.length; j++) {
      const replaced = row[j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1))
    }
    row = next
  }
  return row[to.length]!
}
