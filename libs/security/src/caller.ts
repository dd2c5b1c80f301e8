import { CleaveError, defaultAccount, defaultTenant, scopes, type Scope } from '#contracts';

/** Who sends a request, and what they may do. */
export interface Caller {
  tenant: string;
  account: string;
  scopes: ReadonlySet<Scope>;
  /** When the credential expires, on the monotonic clock (`performance.now()`); unset if that is unknown, or never. */
  validUntil?: number;
  /** A gateway says who is calling, and has already done everything that happens at the front, such as rate limiting. */
  isTold?: true;
  /** The id of the API key, if the credential is one. */
  keyId?: string;
  /** The first key in the chain of rotations that led to this key. All keys of the chain count as one. */
  keyFamily?: string;
}

/** The caller of every request where authentication is off. */
export const anybody: Caller = {
  tenant: defaultTenant,
  account: defaultAccount,
  scopes: new Set<Scope>([...scopes, 'operator']),
};

/** The identity that requests are counted by: a key together with those that it replaced, or an account. */
export const countedAs = ({ tenant, account, keyFamily }: Caller): string =>
  keyFamily ?? JSON.stringify([tenant, account]);

/** @throws CleaveError `unauthenticated` once the credential has expired, even while it cannot be looked up */
export const refuseWhenEnded = ({ validUntil = Infinity }: Caller): void => {
  if (performance.now() >= validUntil) throw notValid();
};

/** One error for a credential that was never valid, is no longer valid, or cannot be read. */
export const notValid = (): CleaveError =>
  new CleaveError('unauthenticated', 'The key or token is not valid, or no longer valid. Get a new one and send it.');

/** @throws CleaveError `forbidden` that names the scope */
export const allow = (caller: Caller, scope: Scope): void => {
  if (caller.scopes.has(scope)) return;
  const detail =
    scope === 'operator'
      ? 'This concerns the whole installation and needs the ADMIN_KEY that the process was started with.'
      : `This needs the scope ${scope}, which the key or token does not have. Send one that has it; POST /keys creates keys.`;
  throw new CleaveError('forbidden', detail, { scope });
};
