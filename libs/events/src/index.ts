/**
 * Following a log of events: consumers, the checkpoints that instances share under leases, and the event bus that may deliver
 * the events.
 */
export type { NatsAddress } from '#nats';
export { eventBus, type EventBusAddress } from './bus-address.js';
export {
  Checkpoints,
  checkpointTables,
  checkpointsIn,
  logStart,
  partFunctions,
  type Checkpoint,
  type LeasedPart,
} from './checkpoints.js';
export { EventBus, EventsModule } from './event-bus.js';
export { EventConsumer, EventSource, fromLog, type LogEntry, type ReadLog, type Reading } from './event-consumer.js';
export { LinkedLog, type Linked } from './linked-log.js';
export { EventPublisher } from './nats-publisher.js';
export { partCount, partOf } from './parts.js';
export { numbersOf, positionOf, type LogNumbers } from './position.js';
