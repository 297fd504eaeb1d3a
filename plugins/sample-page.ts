import { fileURLToPath } from 'node:url'
import fastifyHelmet from '@fastify/helmet'
import fastifyRateLimit from '@fastify/rate-limit'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance } from 'fastify'
import { signingKeyOf, signToken, type VerificationKey } from '../lib/auth/index.js'
import type { ResolvedOptions } from '../lib/config/index.js'
import { connect, parseConninfo } from '../lib/postgres/index.js'
import { migrate } from '../lib/schema/index.js'
import { samplePages } from '../routes/dashboard.js'
import { tokenRoute } from '../routes/token.js'
import { registerJwt } from './jwt.js'

/** The sample pages. The compiled file is one folder deeper. */
const PUBLIC_FOLDER = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../public' : '../../public', import.meta.url)
)

/** The channel of the sample page, which tracks presence and is durable. */
export const PAGE_CHANNEL = 'chat'

/** Makes the channel of the sample page durable, unless the database has a rule for it. */
export async function retainPageChannel({ dbUri, listenChannel }: ResolvedOptions): Promise<void> {
  const client = await connect(parseConninfo(dbUri))
  try {
    await migrate(client, listenChannel)
    await client.query(`select pgws.retain($1, interval '1 day', 1000) where pgws.max_age($1) is null`, [
      PAGE_CHANNEL
    ])
  } finally {
    await client.end()
  }
}

export interface SamplePageOptions
  extends Pick<ResolvedOptions, 'httpRateLimit' | 'jwtAudience' | 'jwtIssuer'> {
  keys: readonly VerificationKey[]
}

/** Serves the sample pages, with security headers. Files of PGWS_ROOT_PATH do not get any. */
export async function samplePage(
  scope: FastifyInstance,
  { keys, httpRateLimit, jwtAudience, jwtIssuer }: SamplePageOptions
): Promise<void> {
  await scope.register(fastifyHelmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      // Without upgrade-insecure-requests, because there is often no TLS on a local network.
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'"],
        imgSrc: ["'self'", 'data:'],
        connectSrc: ["'self'", 'ws:', 'wss:'],
        formAction: ["'self'"],
        baseUri: ["'none'"],
        frameAncestors: ["'self'"]
      }
    },
    crossOriginOpenerPolicy: false,
    strictTransportSecurity: false
  })
  await scope.register(fastifyStatic, {
    root: PUBLIC_FOLDER,
    // The plugin serves it, if it is on.
    allowedPath: (path) => !path.startsWith('/dashboard')
  })
  samplePages.add(scope.server)
  const key = signingKeyOf(keys)
  // If an identity provider signs the tokens, it also renews them.
  if (key === undefined) return
  await scope.register(async (limited) => {
    if (httpRateLimit !== undefined) {
      await limited.register(fastifyRateLimit, { max: httpRateLimit, timeWindow: 60_000 })
    }
    const verifyToken = await registerJwt(limited, {
      keys,
      jwksUrl: undefined,
      jwtAudience,
      jwtIssuer,
      isRevoked: ({ claims }) => limited.pgws.isRevoked(claims)
    })
    tokenRoute(limited, { verifyToken, sign: (claims) => signToken(claims, key) })
  })
}
