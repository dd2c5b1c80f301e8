/**
 * Why the certificate of the other side is not believed, and what to do, for people to read; undefined where something else went
 * wrong. It does not get better by waiting.
 */
export const whyDistrusted = (error: unknown): string | undefined => {
  const { code, message } = (error ?? {}) as NodeJS.ErrnoException;
  if (!/CERT|UNABLE_TO_VERIFY/.test(code ?? '')) return undefined;
  return `its certificate is not trusted (${message}); name that of your own authority in NODE_EXTRA_CA_CERTS`;
};
