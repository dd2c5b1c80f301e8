import type { Meter } from '@opentelemetry/api';
import type { Pool } from 'pg';

/** Reports the state of a pool on demand, named by OpenTelemetry's semantic conventions. */
export const observePool = (meter: Meter, pool: Pool, name: string): void => {
  const named = { 'db.client.connection.pool.name': name };
  const state = 'db.client.connection.state';
  meter
    .createObservableUpDownCounter('db.client.connection.count', {
      unit: '{connection}',
      description: 'Connections to Postgres, in use and idle.',
    })
    .addCallback((result) => {
      result.observe(pool.idleCount, { ...named, [state]: 'idle' });
      result.observe(pool.totalCount - pool.idleCount, { ...named, [state]: 'used' });
    });
  meter
    .createObservableUpDownCounter('db.client.connection.max', {
      unit: '{connection}',
      description: 'Maximum number of connections to Postgres.',
    })
    .addCallback((result) => result.observe(pool.options.max, named));
  meter
    .createObservableUpDownCounter('db.client.connection.pending_requests', {
      unit: '{request}',
      description: 'Requests that wait for a connection to Postgres because all are in use.',
    })
    .addCallback((result) => result.observe(pool.waitingCount, named));
};
