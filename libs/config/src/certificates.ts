/** The authority that has signed the certificate is not known here. */
const unknownAuthority = /SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER/;
/** The other side refuses us: we have no certificate to show. */
const wantsOurs = /ALERT_(?:CERTIFICATE_REQUIRED|BAD_CERTIFICATE)|HANDSHAKE_FAILURE/;

/**
 * Why a TLS connection cannot be made because of a certificate, and what to do, for people to read; undefined if the error is
 * about something else. Retrying does not help.
 */
export const whyDistrusted = (error: unknown): string | undefined => {
  const { code = '', message } = (error ?? {}) as NodeJS.ErrnoException;
  if (unknownAuthority.test(code))
    return `its certificate is not trusted (${message}); name that of your own authority in NODE_EXTRA_CA_CERTS`;
  if (wantsOurs.test(code)) return `it asks for a client certificate, and Cleave cannot send one (${message})`;
  return code.includes('CERT') ? `its certificate is not valid for this connection (${message})` : undefined;
};
