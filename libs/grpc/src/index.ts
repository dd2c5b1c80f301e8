/** What every gRPC service needs, whatever its domain: the server, errors as statuses, JSON and timestamps. */
export { grpcAddress } from './address.js';
export { CalledBy } from './called-by.js';
export { GrpcListener, GrpcModule, type GrpcListening } from './grpc.module.js';
export { jsonOf, structOf, timestampOf, type Struct } from './json.js';
export { invalidRequest } from './invalid-request.js';
export { StatusFilter } from './status-filter.js';
