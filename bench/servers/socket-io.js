// Socket.IO with its own Postgres adapter.
import { createAdapter } from '@socket.io/postgres-adapter'
import { serve } from './socket-io-serve.js'

await serve(createAdapter)
