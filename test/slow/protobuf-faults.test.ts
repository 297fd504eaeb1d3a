// The tests of sdk-faults.test.ts, with SDKs that speak protobuf.
import { speakProtobuf } from '../support/sdk.js'

speakProtobuf()
await import('./sdk-faults.test.js')
