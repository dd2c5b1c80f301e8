import { appendFileSync } from 'node:fs';
import type { Address } from '../src/index.js';
import { startInstance } from './probe.js';

/**
 * One instance in a process of its own, at the address given as JSON. It reports arriving requests to its parent or, so that
 * none is missing when it is killed, to a file.
 */
const [, , address, name, record] = process.argv as [string, string, string, string, string];
const instance = await startInstance([JSON.parse(address) as Address], name);
instance.journal.onArrival = (id) => (record ? appendFileSync(record, `${id}\n`) : process.send?.(id));
process.send?.('listening');
process.on('message', () => void instance.close().then(() => process.exit()));
// The test process is gone and cannot kill this one any more.
process.on('disconnect', () => process.exit());
