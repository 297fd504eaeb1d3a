// Socket.IO with our adapter, as built.
import { built } from '../built.js'
import { serve } from './socket-io-serve.js'

const { createAdapter } = await built('socket.io.js')
await serve(createAdapter)
