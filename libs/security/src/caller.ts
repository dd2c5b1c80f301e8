import { CleaveError, defaultAccount, defaultTenant, scopes, type Scope } from '#contracts';

/** Who asks. */
export interface Caller {
  tenant: string;
  account: string;
  scopes: ReadonlySet<Scope>;
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

/** @throws CleaveError `forbidden` that names the scope */
export const allow = (caller: Caller, scope: Scope): void => {
  if (caller.scopes.has(scope)) return;
  const detail =
    scope === 'operator'
      ? 'This is about the installation as a whole: it needs the ADMIN_KEY that the process was started with.'
      : `This needs the scope ${scope}, which the key or token does not have.`;
  throw new CleaveError('forbidden', detail, { scope });
};
