/** The two numbers of a position, as decimal texts: `xid` is an xid8, and both may exceed the safe integers. */
export interface LogNumbers {
  xid: string;
  id: string;
}

export const positionOf = ({ xid, id }: LogNumbers): string => `${xid.padStart(20, '0')}-${id.padStart(19, '0')}`;

/** Without leading zeros, because Postgres reads an xid8 with a leading zero as octal. */
export const numbersOf = (position: string): LogNumbers => {
  const [xid, id] = position.split('-').map((it) => String(BigInt(it))) as [string, string];
  return { xid, id };
};
