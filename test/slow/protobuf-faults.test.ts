// The tests of faults.test.ts, with SDKs that speak protobuf.
import { speakProtobuf } from '../support/sdk.js'

speakProtobuf()
await import('../lib/protocols/centrifugo/faults.test.js')
