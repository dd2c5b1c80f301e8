/** What events and requests over NATS share: the address, and a connection that reconnects by itself. */
export { natsForm, natsText, parseNats, type NatsAddress } from './address.js';
export { isRefusedByNats, NatsLink } from './link.js';
