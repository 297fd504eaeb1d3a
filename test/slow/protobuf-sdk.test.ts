// The tests of sdk.test.ts, with SDKs that speak protobuf.
import { speakProtobuf } from '../support/sdk.js'

speakProtobuf()
await import('../lib/protocols/centrifugo/sdk.test.js')
