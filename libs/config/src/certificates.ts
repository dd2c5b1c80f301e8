/**
 * Why the peer's certificate is not trusted and what to do about it, for messages; undefined for any other error. Waiting
 * does not help.
 */
export const whyDistrusted = (error: unknown): string | undefined => {
  const { code, message } = (error ?? {}) as NodeJS.ErrnoException;
  if (!/CERT|UNABLE_TO_VERIFY/.test(code ?? '')) return undefined;
  return `its certificate is not trusted (${message}); name that of your own authority in NODE_EXTRA_CA_CERTS`;
};
