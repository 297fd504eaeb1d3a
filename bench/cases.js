/** All cases, by the names that the command line takes. */
import { connecting, idle, storm } from './cases/connections.js'
import { dashboards } from './cases/dashboards.js'
import { durableFanOut, durablePublishing, resuming, retention } from './cases/durable.js'
import { blocking, burst, channels, paced, sdk, sdkPaced, sdkProtobuf, single } from './cases/fan-out.js'
import { joined } from './cases/joined-channels.js'
import { neighbours } from './cases/neighbours.js'
import { nodes } from './cases/nodes.js'
import { presence } from './cases/presence.js'
import { publishing } from './cases/publishing.js'
import { reconnecting } from './cases/reconnecting.js'
import { socketIo } from './cases/socket-io.js'
import { subscriptions } from './cases/subscriptions.js'
import { unwanted } from './cases/unwanted.js'
import { writer, writerPaced, writers16, writers64 } from './cases/writers.js'

export const CASES = {
  burst,
  single,
  paced,
  sdkPaced,
  channels,
  neighbours,
  presence,
  publishing,
  connecting,
  idle,
  storm,
  blocking,
  joined,
  dashboards,
  sdk,
  sdkProtobuf,
  socketIo,
  durablePublishing,
  durableFanOut,
  resuming,
  reconnecting,
  retention,
  writer,
  writerPaced,
  writers16,
  writers64,
  nodes,
  subscriptions,
  unwanted
}
