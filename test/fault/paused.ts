import type { Place } from '../support/postgres-proxy.js';
import type { ProxiedShape } from '../support/proxied-shapes.js';

/**
 * Pauses the first instance while it sends the statement, does the work, and then resumes it. The second instance may be
 * paused before, so that only the first can send the statement; it is resumed for the work.
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
