/** The redo log from the reading side: checkpoints that instances share under leases, and the work that follows a log. */
export { Checkpoints, checkpointTables, logStart, type Checkpoint, type HeldPart } from './checkpoints.js';
export { EventConsumer, EventSource, fromLog, type Logged, type Reading } from './event-consumer.js';
export { partCount, partOf } from './parts.js';
export { numbersOf, positionOf, type LogNumbers } from './position.js';
