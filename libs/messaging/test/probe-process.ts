import type { Address } from '../src/index.js';
import { startInstance } from './probe.js';

/** One instance in a process of its own, at the address given as JSON; it reports arriving requests to its parent. */
const instance = await startInstance([JSON.parse(process.argv[2] as string) as Address], 'process');
instance.journal.onArrival = (id) => process.send?.(id);
process.send?.('listening');
// The test process is gone and cannot kill this one any more.
process.on('disconnect', () => process.exit());
