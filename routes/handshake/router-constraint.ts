import type { FastifyInstance } from 'fastify'
import { holdsToken, isDecodable, maskTokens, pathOf } from './address.js'

/** The name of our find-my-way constraint. */
export const CONSTRAINT = 'pgws'

/** Its values. */
export type Kind = 'upgrade' | 'events' | 'token' | 'preflight' | 'preflight-shared'

/** The part of a request that a constraint sees. */
interface ConstrainedRequest {
  method?: string
  url?: string
  headers: Record<string, string | string[] | undefined> & {
    upgrade?: string | undefined
    accept?: string | undefined
  }
}

export function isRootPrefix(prefix: string): boolean {
  return prefix === '' || prefix === '/'
}

export interface Host {
  /** The prefixes that we are registered with. */
  prefixes: Set<string>
  /** Whether it answers `OPTIONS` for all addresses at once, as @fastify/cors does. */
  answersPreflights: boolean
  /**
   * The methods with a route for what holds a token. Not `OPTIONS`, which a host may answer for all addresses at once
   * (CORS), and not what its router does not know: there the token is masked before anybody sees it.
   */
  methods: string[]
}

/** By its server: of several instances of the plugin on one host, all share what is known of it. */
const hosts = new WeakMap<object, Host>()

export function hostOf({ server, supportedMethods }: FastifyInstance): Host {
  // HEAD has the route of GET.
  const methods = supportedMethods.filter((method) => method !== 'OPTIONS' && method !== 'HEAD')
  const host = hosts.get(server) ?? { prefixes: new Set(), answersPreflights: false, methods }
  hosts.set(server, host)
  return host
}

/** Requests whose path cannot be decoded. */
export const malformed = new WeakSet<object>()

/**
 * Makes the constraint known to the router, once for each host.
 *
 * It also writes `request.url`, which no other place could. The router answers a path that it cannot decode with a text
 * that repeats the path, token included, before any hook runs; and a method without a route leads to the host's 404
 * handler and log line. Fastify has two options for that, `rewriteUrl` and `frameworkErrors`
 * (https://fastify.dev/docs/latest/Reference/Server/), but they are the host's: a plugin cannot set them. A constraint is
 * derived before the path is decoded, so such a path is cut, or masked, here.
 */
export function addConstraint(fastify: FastifyInstance): void {
  if (fastify.hasConstraintStrategy(CONSTRAINT)) return
  const host = hostOf(fastify)
  const { prefixes, methods } = host
  const routed = new Set([...methods, 'HEAD'])
  const isOurs = (url: string) => {
    // RFC 9112, section 3.2.2: the whole address.
    const path = url.replace(/^[a-z]+:\/\/[^/?]*/i, '')
    return [...prefixes].some((prefix) => path.startsWith(prefix))
  }
  const preflightKind = (url: string): Kind | undefined => {
    if (!holdsToken(url) && pathOf(url) !== '/') return 'preflight'
    const prefixed = [...prefixes].some((prefix) => !isRootPrefix(prefix) && url.startsWith(prefix))
    return prefixed || !host.answersPreflights ? 'preflight-shared' : undefined
  }
  fastify.addConstraintStrategy({
    name: CONSTRAINT,
    storage() {
      const handlers = new Map<unknown, never>()
      return {
        get: (value: unknown) => handlers.get(value) ?? null,
        set: (value: unknown, handler: never) => handlers.set(value, handler),
        del: (value: unknown) => handlers.delete(value),
        empty: () => handlers.clear()
      } as never
    },
    deriveConstraint(request: ConstrainedRequest) {
      const { url = '', method = '', headers } = request
      const kind: Kind | undefined =
        method !== 'GET'
          ? undefined
          : headers.upgrade?.toLowerCase() === 'websocket'
            ? 'upgrade'
            : headers.accept?.includes('text/event-stream')
              ? 'events'
              : undefined
      if (kind !== undefined) {
        if (!isDecodable(url)) {
          malformed.add(request)
          request.url = url.slice(0, url.indexOf('%'))
        }
        return kind
      }
      const preflight =
        method === 'OPTIONS' && headers.origin && headers['access-control-request-method']
          ? preflightKind(url)
          : undefined
      if (!holdsToken(url)) return preflight
      if (!isDecodable(url)) request.url = maskTokens(url)
      if (routed.has(method)) return 'token'
      if (isOurs(url)) request.url = maskTokens(url)
      return preflight
    },
    validate() {}
  } as Parameters<FastifyInstance['addConstraintStrategy']>[0])
}
