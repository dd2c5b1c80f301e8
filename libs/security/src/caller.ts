import { CleaveError, defaultAccount, defaultTenant, scopes, type Scope } from '#contracts';

/** Who asks. */
export interface Caller {
  tenant: string;
  account: string;
  scopes: ReadonlySet<Scope>;
  /** When what was sent is good no more, by the clock that does not jump; unset where that is not known, or never. */
  validUntil?: number;
  /** A gateway has said so, and has seen to what is seen to where callers come in. */
  isTold?: true;
  /** The key that was sent, if it was one. */
  keyId?: string;
  /** The first of the keys that have taken each other's place down to this one: they count as one. */
  keyFamily?: string;
}

/** Everybody, where nobody has to say who they are. */
export const anybody: Caller = {
  tenant: defaultTenant,
  account: defaultAccount,
  scopes: new Set<Scope>([...scopes, 'operator']),
};

/** Who is one where it is counted what somebody asks for: a key with those whose place it has taken, or an account. */
export const countedAs = ({ tenant, account, keyFamily }: Caller): string =>
  keyFamily ?? JSON.stringify([tenant, account]);

/** @throws CleaveError `unauthenticated` once what was sent is good no more, whether or not anybody can be asked about it */
export const refuseWhenEnded = ({ validUntil = Infinity }: Caller): void => {
  if (performance.now() >= validUntil) throw notValid();
};

/** The same for what was never valid, is not any more, and what cannot be read. */
export const notValid = (): CleaveError =>
  new CleaveError('unauthenticated', 'The key or token is not valid, or not any more. Get another one and send that.');

/** @throws CleaveError `forbidden` that names the scope */
export const allow = (caller: Caller, scope: Scope): void => {
  if (caller.scopes.has(scope)) return;
  const detail =
    scope === 'operator'
      ? 'This is about the installation as a whole: it needs the ADMIN_KEY that the process was started with.'
      : `This needs the scope ${scope}, which the key or token does not have. Send one that has it; POST /keys creates keys.`;
  throw new CleaveError('forbidden', detail, { scope });
};
