/** How modules talk: one typed client for a contract, in-process or over TCP, Redis or NATS, with the same results everywhere. */
export { address, addressText, hostsOf, listenAddress, type Address } from './address.js';
export { Answers } from './answers.js';
export { balancePolicy, type BalancePolicy } from '#balancing';
export { isNotAnswered, type ContractClient } from './client.js';
export { awaitedBrokers, listenForMessages } from './listen.js';
export { MessagingModule, Messenger } from './messenger.js';
export { JsonReply, type MessageMetadata } from './wire.js';
