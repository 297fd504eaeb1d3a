import fastifyHelmet from '@fastify/helmet'
import fastifySwagger, { type SwaggerTransform } from '@fastify/swagger'
import fastifySwaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'

/** The security scheme of the control plane. */
const BEARER = { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } as const

/**
 * Defines the security scheme `bearer` in a host's document, unless the host has done so, because @fastify/swagger fails on
 * an undefined scheme. It must be called with the first of the plugin's routes.
 */
export function defineBearer({ schema, url, ...document }: Parameters<SwaggerTransform>[0]) {
  if ('openapiObject' in document) {
    const { components } = document.openapiObject
    if (components) components.securitySchemes = { bearer: BEARER, ...components.securitySchemes }
  } else {
    const { swaggerObject } = document
    const bearer = { type: 'apiKey', name: 'authorization', in: 'header' } as const
    swaggerObject.securityDefinitions = { bearer, ...swaggerObject.securityDefinitions }
  }
  return { schema, url }
}

/**
 * Builds the OpenAPI document from the schemas of the routes, and serves it at `/documentation/json`, with a page. If the
 * host has registered @fastify/swagger before, the routes appear in the host's document instead.
 */
export async function registerDocumentation(fastify: FastifyInstance): Promise<void> {
  if (fastify.hasDecorator('swagger')) return
  await fastify.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'fastify-pg-websockets',
        description: 'The control plane: health, nodes, channels, connections, publish.',
        version: '1'
      },
      components: { securitySchemes: { bearer: BEARER } }
    }
  })
  await fastify.register(async (pages) => {
    await pages.register(fastifyHelmet, {
      contentSecurityPolicy: false,
      crossOriginOpenerPolicy: false,
      strictTransportSecurity: false
    })
    await pages.register(fastifySwaggerUi, {
      routePrefix: '/documentation',
      staticCSP: true,
      transformStaticCSP: (policy) =>
        policy
          // On a local network there is often no TLS.
          .replace(/upgrade-insecure-requests;?/, '')
          // Its scripts set inline styles.
          .replace(/style-src [^;]*/, "style-src 'self' 'unsafe-inline'")
    })
  })
}
