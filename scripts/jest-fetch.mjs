// Loaded by each of jest's processes. A stopping service waits up to two seconds for idle connections, because they may
// still be used: this closes those of the tests' `fetch` soon after the last answer.
import { Agent, setGlobalDispatcher } from 'undici';

const idleMs = 100;

setGlobalDispatcher(new Agent({ keepAliveTimeout: idleMs, keepAliveMaxTimeout: idleMs }));
