import type { IncomingHttpHeaders } from 'node:http';
import { withoutBrackets } from '#config';
import { CleaveError } from '#contracts';
import { isLoopback } from './environment.js';

export interface OpenDoor {
  /** Where it answers. */
  host: string | undefined;
  /** Whose pages are welcome all the same. */
  origins: ReadonlySet<string>;
  /** The last host that was asked for and is this one: mostly it is asked for again. */
  lastAsked?: string;
}

/**
 * Whoever is on this machine may do everything where nobody is asked who they are, but not the pages of others that they
 * look at. A browser says of those requests where they come from; and where it takes a page for one of ours, because its name
 * has come to lead to this machine since it was loaded, for which host they are.
 */
export const refusalOfPage = (headers: IncomingHttpHeaders, door: OpenDoor): CleaveError | undefined => {
  const ofHost = refusalOfHost(headers, door);
  if (ofHost) return ofHost;
  const { origin, 'sec-fetch-site': site } = headers;
  if (site !== 'cross-site' && site !== 'same-site') return undefined;
  return origin !== undefined && door.origins.has(origin) ? undefined : ofOtherSite();
};

/** The same of what a page of another site may lead to, such as what is measured: it is read by none whose name leads here. */
export const refusalOfHost = ({ host: asked }: IncomingHttpHeaders, door: OpenDoor): CleaveError | undefined => {
  if (asked === undefined || asked === door.lastAsked) return undefined;
  if (!isOurs(nameIn(asked), door.host)) return ofOtherHost(asked);
  door.lastAsked = asked;
  return undefined;
};

/** Of `name:port`, and of an IPv6 address in its brackets. */
const nameIn = (host: string): string => withoutBrackets(host.replace(/:\d{0,5}$/, '')).toLowerCase();

const isOurs = (name: string, host: string | undefined): boolean => isLoopback(name) || name === host?.toLowerCase();

const ofOtherHost = (asked: string): CleaveError =>
  new CleaveError(
    'misdirected-request',
    `Nobody is asked who they are here, so what is answered has to be for this machine, not for ${asked.slice(0, 100)}. ` +
      'Ask for localhost or 127.0.0.1, or set ADMIN_KEY and send a key.',
  );

const ofOtherSite = (): CleaveError =>
  new CleaveError(
    'forbidden',
    'A page of another site has sent this. Set ADMIN_KEY and send a key to allow it, or name the site in CORS_ORIGINS.',
  );
