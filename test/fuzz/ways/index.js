// Every way in, and how each is run.
import fc from 'fast-check'
import { http, runHttp } from './http.js'
import { notifications, runNotifications } from './notifications.js'
import { protobuf, runProtobuf } from './protobuf.js'
import { rows, runRows } from './rows.js'
import { runSdk, sdk } from './sdk.js'
import { runSql, sql } from './sql.js'
import { runWebSocket, webSocket } from './websocket.js'

const RUN = {
  http: runHttp,
  websocket: runWebSocket,
  sdk: runSdk,
  protobuf: runProtobuf,
  notifications: runNotifications,
  rows: runRows,
  sql: runSql
}

/** @param only the ways to use; empty: all of them */
export function anyActions(only) {
  const all = { http, websocket: webSocket, sdk, protobuf, notifications, rows, sql }
  const wanted = Object.keys(all).filter((way) => only.length === 0 || only.includes(way))
  return fc.array(fc.oneof(...wanted.map((way) => all[way])), { minLength: 1, maxLength: 10 })
}

export function run(action, target) {
  return RUN[action.way](action, target)
}
