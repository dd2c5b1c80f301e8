import { Resolver, lookup } from 'node:dns/promises';
import { BlockList, isIP } from 'node:net';
import { withoutBrackets } from '#config';
import type { AddressRules } from '../use-cases/manage-endpoints.js';

/** An address of a host name. */
export interface HostAddress {
  address: string;
  family: 4 | 6;
}

/** @throws Error if the name has no address */
export type ResolveHost = (hostname: string) => Promise<HostAddress[]>;

/** IPv4 ranges that are not public (IANA special-purpose registry), including multicast and broadcast. */
const special = new BlockList();
for (const [net, prefix] of [
  ...[['0.0.0.0', 8] as const, ['10.0.0.0', 8] as const, ['100.64.0.0', 10] as const, ['127.0.0.0', 8] as const],
  ...[['169.254.0.0', 16] as const, ['172.16.0.0', 12] as const, ['192.0.0.0', 24] as const],
  ...[['192.0.2.0', 24] as const, ['192.88.99.0', 24] as const, ['192.168.0.0', 16] as const],
  ...[['198.18.0.0', 15] as const, ['198.51.100.0', 24] as const, ['203.0.113.0', 24] as const],
  ...[['224.0.0.0', 4] as const, ['240.0.0.0', 4] as const],
])
  special.addSubnet(net, prefix, 'ipv4');

/**
 * Of IPv6 only global unicast addresses are public. Loopback, link-local, unique local, multicast, IPv4-mapped and NAT64 lie
 * outside that range; Teredo and 6to4, which also lead to an IPv4 address, lie inside and are excluded.
 */
const global = new BlockList();
global.addSubnet('2000::', 3, 'ipv6');
const exceptions = new BlockList();
for (const [net, prefix] of [
  ['2001::', 23] as const,
  ['2001:db8::', 32] as const,
  ['2002::', 16] as const,
  ['3fff::', 20] as const,
])
  exceptions.addSubnet(net, prefix, 'ipv6');

export const isPublic = (address: string): boolean => {
  switch (isIP(address)) {
    case 4:
      return !special.check(address, 'ipv4');
    case 6:
      return global.check(address, 'ipv6') && !exceptions.check(address, 'ipv6');
    default:
      return false;
  }
};

/** The usual ports of https: a URL with another port is hardly a webhook. */
export const usualPorts = [443, 8443];

const isLocalName = (hostname: string): boolean => /(^|\.)localhost\.?$/.test(hostname);

/**
 * Keeps webhooks from reaching hosts that only we can reach (SSRF). Names are resolved by DNS queries of our own: the system
 * resolver has few threads, and names that nobody answers for would block it for all others, our databases included.
 */
export class AddressGuard implements AddressRules {
  private readonly resolver = new Resolver({ timeout: 2_000, tries: 2 });

  constructor(
    readonly allowPrivate: boolean,
    private readonly resolve: ResolveHost = (hostname) =>
      // Private names are often in no DNS.
      allowPrivate ? (lookup(hostname, { all: true }) as Promise<HostAddress[]>) : this.ask(hostname),
    private readonly ports: readonly number[] = usualPorts,
  ) {}

  faultOf(url: URL): string | undefined {
    if (this.allowPrivate) return undefined;
    if (url.protocol !== 'https:') return 'Webhooks are sent over https only.';
    const host = withoutBrackets(url.hostname);
    const isPrivate = isIP(host) === 0 ? isLocalName(host) : !isPublic(host);
    if (isPrivate) return 'Webhooks are not sent to private addresses.';
    const isUsual = this.ports.includes(Number(url.port) || 443);
    return isUsual ? undefined : `Webhooks are sent to the ports ${this.ports.join(' and ')} only.`;
  }

  /**
   * The addresses to connect to, and to no others: the name may have other ones a moment later (DNS rebinding).
   *
   * @throws Error if any of them is private: then the others are not trusted either
   */
  async addressesOf(hostname: string): Promise<HostAddress[]> {
    const addresses = await this.resolve(hostname);
    if (!this.allowPrivate && !addresses.every((it) => isPublic(it.address))) throw new PrivateAddressError();
    return addresses;
  }

  private async ask(hostname: string): Promise<HostAddress[]> {
    const families = [this.resolver.resolve4(hostname), this.resolver.resolve6(hostname)];
    const [four, six] = await Promise.allSettled(families);
    const found = [
      ...(four!.status === 'fulfilled' ? four!.value.map((address) => ({ address, family: 4 as const })) : []),
      ...(six!.status === 'fulfilled' ? six!.value.map((address) => ({ address, family: 6 as const })) : []),
    ];
    if (found.length === 0) throw (four as PromiseRejectedResult).reason as Error;
    return found;
  }
}

export class PrivateAddressError extends Error {
  override readonly message = 'the host name resolves to a private address';
}
