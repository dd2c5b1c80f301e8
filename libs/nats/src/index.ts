/** What speaks NATS has in common, be it events or requests: its address, and a connection that comes back by itself. */
export { natsForm, natsText, parseNats, type NatsAddress } from './address.js';
export { isRefusedByNats, NatsLink } from './link.js';
