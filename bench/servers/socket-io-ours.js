// Socket.IO with our adapter, as built.
import { createAdapter } from '../../dist/socket.io.js'
import { serve } from './socket-io-serve.js'

await serve(createAdapter)
