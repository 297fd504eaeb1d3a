/** Which folder may import what: docs/architecture.md says why. From the ground up; each may import those before it. */
const rooms = [
  'events',
  'postgres',
  'bus',
  'listener',
  'embedded-postgres',
  'auth',
  'schema',
  'config',
  'messages',
  'channels',
  'durable',
  'sequencer',
  'publishing',
  'presence',
  'flow',
  'clients',
  'transports',
  'protocols',
  'cluster',
  'socket.io'
]
const folder = (name) => `^lib/${name.replace('.', '\\.')}/`

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    {
      name: 'no-cycle',
      comment: 'No file imports itself by way of others, types included.',
      severity: 'error',
      from: {},
      to: { circular: true }
    },
    {
      name: 'by-the-face',
      comment:
        'A room is imported through its index.ts. (The emitter works where socket.io-adapter is not installed; and the entries for Socket.IO load nothing of the plugin.)',
      severity: 'error',
      from: { path: '^lib/((?:protocols/)?[^/]+)/|^(?:commands|plugins|routes)/|^[^/]+\\.ts$' },
      to: {
        path: '^lib/[^/]+/',
        pathNot: [
          '^lib/$1/',
          '/index\\.ts$',
          '^lib/socket\\.io/emitter\\.ts$',
          '^lib/publishing/(batch-queue|publish-from-script)\\.ts$',
          '^lib/config/option-specs\\.ts$'
        ]
      }
    },
    ...rooms.map((room, index) => ({
      name: `${room}-imports-below`,
      comment: 'A room imports rooms below it, and the leaves.',
      severity: 'error',
      from: { path: folder(room) },
      to: {
        path: [
          '^lib/[^/]+/',
          '^(commands|plugins|routes)/',
          '^[^/]+\\.ts$',
          '^lib/(bridge|feed|gateway|gateway-options|parts|health|sampler)'
        ],
        pathNot: rooms.slice(0, index + 1).map(folder)
      }
    })),
    {
      name: 'leaves-import-leaves',
      comment: 'The files of lib/ that everybody may import know no room.',
      severity: 'error',
      from: {
        path: '^lib/[^/]+\\.ts$',
        pathNot: '^lib/(bridge|feed|gateway|gateway-options|parts|health|sampler)\\.ts$'
      },
      to: { path: ['^lib/[^/]+/', '^(commands|plugins|routes)/'] }
    },
    {
      name: 'lib-knows-no-fastify',
      severity: 'error',
      from: { path: '^lib/' },
      to: { path: '^node_modules/@?fastify', pathNot: '@fastify/error' }
    }
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' }
  }
}
