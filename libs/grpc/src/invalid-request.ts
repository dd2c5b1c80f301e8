import { CleaveError, type Fault } from '#contracts';

/** @param faults at least one */
export const invalidRequest = (faults: [Fault, ...Fault[]]): CleaveError => {
  const [{ path, message }] = faults;
  return new CleaveError('invalid-request', path ? `${path}: ${message}` : `The request ${message}.`, { faults });
};
