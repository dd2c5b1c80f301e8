import type { IncomingHttpHeaders } from 'node:http';
import { withoutBrackets } from '#config';
import { CleaveError } from '#contracts';
import { isLoopback } from './environment.js';

export interface UnauthenticatedAccess {
  /** The host that the process listens on. */
  host: string | undefined;
  /** Origins whose pages are allowed nevertheless. */
  origins: ReadonlySet<string>;
  /** The last `Host` that was accepted: usually the next request has the same one. */
  lastAsked?: string;
}

/**
 * Where authentication is off, people on this machine may do everything, but pages of other sites in their browsers may
 * not. Browsers mark the requests of such pages in `Sec-Fetch-Site`. A page whose name was made to resolve to this
 * machine after it was loaded (DNS rebinding) does not look foreign to the browser; it is recognised by its `Host`.
 */
export const refusalOfPage = (headers: IncomingHttpHeaders, access: UnauthenticatedAccess): CleaveError | undefined => {
  const ofHost = refusalOfHost(headers, access);
  if (ofHost) return ofHost;
  const { origin, 'sec-fetch-site': site } = headers;
  if (site !== 'cross-site' && site !== 'same-site') return undefined;
  return origin !== undefined && access.origins.has(origin) ? undefined : ofOtherSite();
};

/** The check of `Host` alone, for what is open to everyone, such as metrics: a page must not read it by DNS rebinding. */
export const refusalOfHost = (
  { host: asked }: IncomingHttpHeaders,
  access: UnauthenticatedAccess,
): CleaveError | undefined => {
  if (asked === undefined || asked === access.lastAsked) return undefined;
  if (!isOurs(nameIn(asked), access.host)) return ofOtherHost(asked);
  access.lastAsked = asked;
  return undefined;
};

/** The name in `name:port`, also for an IPv6 address in brackets. */
const nameIn = (host: string): string => withoutBrackets(host.replace(/:\d{0,5}$/, '')).toLowerCase();

const isOurs = (name: string, host: string | undefined): boolean => isLoopback(name) || name === host?.toLowerCase();

const ofOtherHost = (asked: string): CleaveError =>
  new CleaveError(
    'misdirected-request',
    `Authentication is off, so only requests to this machine are answered, not requests to ${asked.slice(0, 100)}. ` +
      'Send the request to localhost or 127.0.0.1, or set ADMIN_KEY and send a key.',
  );

const ofOtherSite = (): CleaveError =>
  new CleaveError(
    'forbidden',
    'A page of another site sent this request. Set ADMIN_KEY and send a key to allow it, or list the site in CORS_ORIGINS.',
  );
