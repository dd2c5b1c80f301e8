import type { Place } from '../support/postgres-proxy.js';
import type { ProxiedShape } from '../support/proxied-shapes.js';

/**
 * Stops the first instance when it sends the statement; it and the statement go on once the work is done. The second one
 * may stand still until then, so that it is the first that sends it; it goes on with the work.
 */
export const paused = async <Begun>(
  shape: ProxiedShape,
  place: Place,
  begin: () => Promise<Begun>,
  work: () => Promise<unknown>,
): Promise<Begun> => {
  const { pid } = shape.services[0]!;
  const other = shape.services[1]!;
  const catching = shape.proxies.order.next(place);
  const begun = begin();
  const caught = await catching;
  process.kill(pid, 'SIGSTOP');
  process.kill(other.pid, 'SIGCONT');
  try {
    await work();
  } finally {
    caught.pass();
    process.kill(pid, 'SIGCONT');
  }
  return begun;
};
