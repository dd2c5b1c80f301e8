// Imported by each of jest's processes. A service that stops waits for connections that nobody uses, because somebody
// might, for up to two seconds: those of the tests' own `fetch` are closed soon after the last answer.
import { Agent, setGlobalDispatcher } from 'undici';

const idleMs = 100;

setGlobalDispatcher(new Agent({ keepAliveTimeout: idleMs, keepAliveMaxTimeout: idleMs }));
