import { DiscardPolicy, JetStreamApiError, RetentionPolicy, StorageType, jetstreamManager } from '@nats-io/jetstream';
import { nanos, type NatsConnection } from '@nats-io/transport-node';

/** The stream that a log is published to, and how its events are addressed there. */
export const streamOf = (log: string) => `cleave-${log}`;
export const subjectOf = (log: string, part: number | '*') => `cleave.${log}.${part}`;

/** Beside the CloudEvent, so that what is known already need not be parsed. */
export const sequenceHeader = 'Cleave-Sequence';
/** Nothing lies between there and here in the part of the event. */
export const previousHeader = 'Cleave-Previous';

/** How long NATS itself knows an event again. Readers do whenever it comes, by its position. */
const duplicateWindowMs = 120_000;

const inUseWithAnotherConfiguration = 10_058;

export interface KeptLog {
  log: string;
  keepHours: number;
  /** Raft needs three to go on without one of them; two would only halt more often than one. */
  isReplicated: boolean;
}

/** Makes the stream, or makes it what is asked for; several may do so at once. */
export const ensureStream = async (
  connection: NatsConnection,
  { log, keepHours, isReplicated }: KeptLog,
): Promise<void> => {
  const { streams } = await jetstreamManager(connection, { checkAPI: false });
  const config = {
    subjects: [subjectOf(log, '*')],
    num_replicas: isReplicated ? 3 : 1,
    max_age: nanos(keepHours * 3_600_000),
    duplicate_window: nanos(duplicateWindowMs),
    discard: DiscardPolicy.Old,
  };
  const fixed = { retention: RetentionPolicy.Limits, storage: StorageType.File };
  try {
    await streams.add({ name: streamOf(log), ...fixed, ...config });
  } catch (error) {
    if (!(error instanceof JetStreamApiError) || error.code !== inUseWithAnotherConfiguration) throw error;
    await streams.update(streamOf(log), config);
  }
};
