import 'reflect-metadata';
import { startInstance } from './probe.js';

/** An instance of the probe module as a process of its own, which can be killed and stopped. `probe-process <port>` */
const port = Number(process.argv[2]);
await startInstance([{ scheme: 'tcp', endpoints: [{ host: '127.0.0.1', port }] }], `process at ${port}`);
process.send?.('answers');
