import type { Stripe } from 'stripe';
import { z } from 'zod';
import { env, withoutBrackets } from '#config';

const example = 'https://api.stripe.com';

/** The environment variables of the method `stripe`, which is not offered without a key. */
export const stripeEnvironment = {
  STRIPE_SECRET_KEY: z
    .string()
    .regex(/^(?:sk|rk)_\w+$/, 'must be a secret or restricted key: sk_… or rk_…')
    .optional(),
  STRIPE_WEBHOOK_SECRET: z
    .string()
    .regex(/^whsec_[!-~]+$/, 'must be the signing secret of a webhook endpoint: whsec_…')
    .optional(),
  STRIPE_API_BASE: env.httpUrl
    .refine((text) => new URL(text).pathname === '/', `must have no path: ${example}`)
    .optional(),
};

export type StripeSettings = z.output<z.ZodObject<typeof stripeEnvironment>>;

/** The official library is loaded only if it is used: that takes a quarter of a second and 30 MB. */
const library = async (): Promise<typeof Stripe> => (await import('stripe')).Stripe;

/** Verifies the signatures of events; undefined without a secret. */
export const stripeWebhooks = async ({ STRIPE_WEBHOOK_SECRET: secret }: StripeSettings) =>
  secret === undefined ? undefined : { secret, library: (await library()).webhooks };

/** The official client; undefined without a key. */
export const stripeClient = async (
  { STRIPE_SECRET_KEY, STRIPE_API_BASE }: StripeSettings,
  callTimeoutMs: number,
): Promise<Stripe | undefined> => {
  if (STRIPE_SECRET_KEY === undefined) return undefined;
  const Client = await library();
  const { protocol, hostname, port } = new URL(STRIPE_API_BASE ?? example);
  return new Client(STRIPE_SECRET_KEY, {
    protocol: protocol === 'http:' ? 'http' : 'https',
    host: withoutBrackets(hostname),
    port: port || (protocol === 'http:' ? 80 : 443),
    timeout: callTimeoutMs,
    // Our callers retry, with the same idempotency key and less soon. The library itself only retries once, after a closed
    // connection, and with that key too.
    maxNetworkRetries: 0,
    telemetry: false,
  });
};
