// Preloaded into a node: sets its clock on request. performance.now and timers continue, as when the clock of a machine is
// set.
const { Date: RealDate } = globalThis
let ahead = 0

class SetDate extends RealDate {
  constructor(...given: unknown[]) {
    if (given.length === 0) super(SetDate.now())
    else super(...(given as [number]))
  }

  static override now(): number {
    return RealDate.now() + ahead
  }
}
globalThis.Date = SetDate as DateConstructor

process.on('message', (message: { setClock?: number }) => {
  ahead += (message.setClock ?? 0) * 1000
})
// The channel must not keep the process alive.
process.channel?.unref()
