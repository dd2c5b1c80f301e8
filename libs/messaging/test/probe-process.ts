import type { Address } from '../src/index.js';
import { startInstance } from './probe.js';

/** One instance as a process of its own, at the address given as JSON; it tells whoever started it what arrives. */
const instance = await startInstance([JSON.parse(process.argv[2] as string) as Address], 'process');
instance.journal.onArrival = (id) => process.send?.(id);
process.send?.('listening');
// Nobody is left to be killed by.
process.on('disconnect', () => process.exit());
