/** The numbers that make a position, as decimal texts: the transaction is an xid8, and both exceed what a number holds. */
export interface LogNumbers {
  xid: string;
  id: string;
}

export const positionOf = ({ xid, id }: LogNumbers): string => `${xid.padStart(20, '0')}-${id.padStart(19, '0')}`;

/** Postgres reads a leading zero of an xid8 as octal, so there is none. */
export const numbersOf = (position: string): LogNumbers => {
  const [xid, id] = position.split('-').map((it) => String(BigInt(it))) as [string, string];
  return { xid, id };
};
