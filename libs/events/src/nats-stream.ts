import { DiscardPolicy, JetStreamApiError, RetentionPolicy, StorageType, jetstreamManager } from '@nats-io/jetstream';
import { nanos, type NatsConnection } from '@nats-io/transport-node';

/** The stream that a log is published to, and how its events are addressed there. */
export const streamOf = (log: string) => `cleave-${log}`;
export const subjectOf = (log: string, part: number | '*') => `cleave.${log}.${part}`;

/** A header beside the CloudEvent, so that an event that is known already need not be parsed. */
export const sequenceHeader = 'Cleave-Sequence';
/** A header: no event of the part lies between this position and the event. */
export const previousHeader = 'Cleave-Previous';

/** How long NATS itself recognises a duplicate. Readers always do, by its position. */
const duplicateWindowMs = 120_000;

const inUseWithAnotherConfiguration = 10_058;

export interface KeptLog {
  log: string;
  keepHours: number;
  /** Raft needs three replicas to survive the loss of one; two would only halt more often than one. */
  isReplicated: boolean;
}

/** Creates the stream, or updates its configuration; several processes may do so at once. */
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
