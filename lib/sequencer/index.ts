export { type OutboxState, Sequencer, type SequencerOptions } from './sequencer.js'
