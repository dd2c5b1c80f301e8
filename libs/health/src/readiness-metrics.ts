import type { Meter } from '@opentelemetry/api';
import { states, type Readiness } from './readiness.js';

/** Reports the result of `/health/ready` as metrics, to monitor many instances. */
export const observeReadiness = (meter: Meter, readiness: Readiness): void => {
  const check = meter.createObservableGauge('health.check', {
    description: 'State of each dependency: 1 for its current state, 0 for the others.',
  });
  const ready = meter.createObservableGauge('health.ready', { description: 'Whether the process is ready: 1 or 0.' });
  meter.addBatchObservableCallback(
    async (result) => {
      const [found, upstreams] = await Promise.all([readiness.states(), readiness.upstreams()]);
      for (const [name, is] of [...found, ...upstreams.states])
        for (const state of states)
          result.observe(check, Number(is === state), { 'health.check.name': name, 'health.state': state });
      const canServe =
        upstreams.canServe && !readiness.shuttingDown && [...found.values()].every((it) => it !== 'down');
      result.observe(ready, Number(canServe));
    },
    [check, ready],
  );
};
