import type { Bench } from './bench.js';
import { placeUnmeasured } from './measure.js';
import type { System } from './systems.js';
import type { Workload } from './workloads.js';

const callers = 128;
const batchSeconds = 10;
/** How many order ids are kept for reading, evenly spread over the whole table. */
const idsKept = 20_000;

/** Places orders until the tables hold that many; through the API, so that they are like any others. @returns ids of some */
export const fillWith = async (bench: Bench, system: System, workload: Workload, orders: number): Promise<string[]> => {
  const orderIds: string[] = [];
  let placed = 0;
  for (let batch = 0; placed < orders; batch += 1) {
    const load = await placeUnmeasured(bench, system, workload, {
      callers,
      seconds: batchSeconds,
      seed: bench.options.seed + batch,
      most: orders - placed,
      keepIdEvery: Math.max(1, Math.ceil(orders / idsKept)),
    });
    if (load.acknowledged === 0) throw new Error(`${system.name} takes no orders: ${JSON.stringify(load.failures)}`);
    placed += load.acknowledged;
    for (const id of load.orderIds) orderIds.push(id);
    bench.say(`${system.name}: ${placed.toLocaleString('en')} of ${orders.toLocaleString('en')} orders`);
  }
  return orderIds;
};
