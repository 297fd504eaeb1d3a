import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance } from 'fastify'
import { VERSION } from '../lib/version.js'
import { HIDDEN } from './schemas.js'

/** The files of the page. The compiled file is one folder deeper. */
const FOLDER = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../public/dashboard' : '../../public/dashboard', import.meta.url)
)

/**
 * The page loads nothing from elsewhere, and has neither inline scripts nor inline styles. It is in no frame, because a
 * click on it may disconnect clients.
 */
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache'
}

const SAMPLE_LINKS = [
  { href: '', text: 'Sample room' },
  { href: 'table.html', text: 'Live table' }
]

/** The servers that serve the sample pages at their root: the dashboard has links to them. */
export const samplePages = new WeakSet<object>()

/**
 * `GET /dashboard`: a page for operators. It holds no secret, and asks for a token with `"admin": true`, which it sends to
 * the control plane.
 * @param documentation whether there is a page of the API
 */
export async function dashboardRoutes(
  fastify: FastifyInstance,
  { documentation }: { documentation: boolean }
): Promise<void> {
  const page = readFileSync(join(FOLDER, 'index.html'))
  // The addresses of the page's files are relative, so that they work below any prefix.
  fastify.addHook('onRequest', async (request, reply) => {
    if (/^[^?]*\/dashboard\/(?:\?|$)/.test(request.raw.url!)) return reply.redirect('../dashboard', 308)
  })
  fastify.get('/dashboard', { schema: HIDDEN }, async (_, reply) =>
    reply.headers(HEADERS).type('text/html; charset=utf-8').send(page)
  )
  fastify.get('/dashboard/about.json', { schema: HIDDEN }, async (_, reply) =>
    reply.headers(HEADERS).send({
      version: VERSION,
      links: [
        ...(samplePages.has(fastify.server) ? SAMPLE_LINKS : []),
        ...(documentation ? [{ href: 'documentation', text: 'API documentation' }] : [])
      ]
    })
  )
  await fastify.register(fastifyStatic, {
    root: FOLDER,
    prefix: '/dashboard/',
    // The host may have the decorators of this plugin.
    decorateReply: false,
    index: false,
    cacheControl: false,
    setHeaders(response) {
      for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value)
    }
  })
}
