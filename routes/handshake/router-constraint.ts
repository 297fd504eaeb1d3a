import type { FastifyInstance } from 'fastify'
import { holdsToken, isDecodable, maskTokens, pathOf } from './address.js'

/** The name of the plugin's find-my-way constraint. */
export const CONSTRAINT = 'pgws'

/** The values of the constraint. */
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

/** Whether the plugin is registered without a prefix. */
export function isRootPrefix(prefix: string): boolean {
  return prefix === '' || prefix === '/'
}

/** What the plugin knows of its host. */
export interface Host {
  /** The prefixes with which the plugin is registered. */
  prefixes: Set<string>
  /** Whether the host answers `OPTIONS` for all addresses, as @fastify/cors does. */
  answersPreflights: boolean
  /**
   * The methods for which the plugin has a route for URLs with a token. `OPTIONS` is not one of them, because the host may
   * answer it for all addresses (CORS). For methods that the router does not support, the token is masked in the URL.
   */
  methods: string[]
}

/** By the host's server, so that several instances of the plugin share one object. */
const hosts = new WeakMap<object, Host>()

/** What is known of the host of an instance. */
export function hostOf({ server, supportedMethods }: FastifyInstance): Host {
  // The route of GET answers HEAD, too.
  const methods = supportedMethods.filter((method) => method !== 'OPTIONS' && method !== 'HEAD')
  const host = hosts.get(server) ?? { prefixes: new Set(), answersPreflights: false, methods }
  hosts.set(server, host)
  return host
}

/** Requests whose path cannot be decoded. */
export const malformed = new WeakSet<object>()

/**
 * Adds the constraint to the router, once for each host.
 *
 * The constraint also changes `request.url`, because this is the only place where a plugin can do so. The router answers a
 * path that it cannot decode with a text that repeats the path, including the token, before any hook runs. And a method
 * without a route leads to the host's 404 handler and its log line. Fastify has the options `rewriteUrl` and
 * `frameworkErrors` for this (https://fastify.dev/docs/latest/Reference/Server/), but a plugin cannot set options of its
 * host. A constraint is derived before the path is decoded. So such a path is shortened or masked here.
 */
export function addConstraint(fastify: FastifyInstance): void {
  if (fastify.hasConstraintStrategy(CONSTRAINT)) return
  const host = hostOf(fastify)
  const { prefixes, methods } = host
  const routed = new Set([...methods, 'HEAD'])
  const isOurs = (url: string) => {
    // The URL may be in absolute form (RFC 9112, section 3.2.2).
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
      }
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
  })
}
