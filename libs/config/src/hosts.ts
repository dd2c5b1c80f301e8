/** A host as sockets and resolvers take it: without the brackets that an IPv6 address has in an address with a port. */
export const withoutBrackets = (host: string): string => host.replace(/^\[(.*)\]$/, '$1');
