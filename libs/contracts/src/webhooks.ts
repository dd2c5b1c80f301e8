import { z } from 'zod';
import { historyEntryTypes } from './order.js';
import { limits, moment, pageOf, text } from './values.js';
import { uuid } from './uuid.js';

/** The event types that an endpoint can subscribe to. */
export const webhookEventTypes = historyEntryTypes.map((it) => `order.${it}` as const);
/** The type of a test message, which is sent whatever the endpoint subscribes to. */
export const webhookTestType = 'webhook.test';

const urlMessage = `must be an http or https URL of at most ${limits.urlLength} characters, without user, password and fragment`;

const isSendable = (given: string): boolean => {
  if (!URL.canParse(given)) return false;
  const { protocol, username, password } = new URL(given);
  return /^https?:$/.test(protocol) && username === '' && password === '' && !given.includes('#');
};

const endpointUrl = text(limits.urlLength, 1)
  .refine(isSendable, urlMessage)
  .meta({
    description: 'Where messages are posted: https, at a public address. Redirects are not followed.',
    examples: ['https://example.com/webhooks'],
  });

const types = z.array(z.enum(webhookEventTypes)).min(1).max(webhookEventTypes.length);

const description = text(limits.textLength);

export const createWebhookEndpointRequest = z
  .strictObject({
    url: endpointUrl,
    types: types.nullish().meta({ description: 'The types of the events that are sent. All if left out.' }),
    description: description.nullish(),
  })
  .meta({
    id: 'CreateWebhookEndpointRequest',
    examples: [{ url: 'https://example.com/webhooks', types: ['order.placed', 'order.cancelled'] }],
  });
export type CreateWebhookEndpointRequest = z.output<typeof createWebhookEndpointRequest>;

export const changeWebhookEndpointRequest = z
  .strictObject({
    url: endpointUrl.optional(),
    types: types.nullish().meta({ description: 'The types of the events that are sent; null for all.' }),
    description: description.nullish(),
    enabled: z
      .boolean()
      .optional()
      .meta({
        description:
          'While it is disabled, nothing is sent, and no new messages are kept for it. Messages that wait already ' +
          'keep waiting.',
      }),
  })
  .meta({ id: 'ChangeWebhookEndpointRequest', examples: [{ types: null, enabled: true }] });
export type ChangeWebhookEndpointRequest = z.output<typeof changeWebhookEndpointRequest>;

export const webhookEndpoint = z
  .object({
    endpoint_id: uuid,
    url: z.string(),
    types: z.array(z.string()).nullable().meta({ description: 'The types of the events that are sent; null for all.' }),
    description: z.string().nullable(),
    enabled: z.boolean(),
    disabled_reason: z.string().nullable().meta({ description: 'Why it was disabled automatically.' }),
    created_at: moment,
    updated_at: moment,
  })
  .meta({ id: 'WebhookEndpoint' });
export type WebhookEndpointDocument = z.output<typeof webhookEndpoint>;

const secret = z.string().meta({
  description: 'The secret that signs messages (Standard Webhooks): `whsec_` and the key in base64.',
});

export const createdWebhookEndpoint = webhookEndpoint.extend({ secret }).meta({ id: 'CreatedWebhookEndpoint' });

export const webhookSecret = z
  .object({
    secret,
    previous_until: moment.nullable().meta({
      description: 'Until when messages are also signed with earlier secrets; null if they are not.',
    }),
  })
  .meta({ id: 'WebhookSecret' });
export type WebhookSecretDocument = z.output<typeof webhookSecret>;

export const webhookEndpointPage = pageOf(webhookEndpoint).meta({ id: 'WebhookEndpointPage' });

export const webhookEndpointQuery = z.strictObject({
  limit: z.string().optional(),
  cursor: z.string().max(1_000).optional(),
});

export const webhookDeliveryStatuses = ['pending', 'delivered', 'failed'] as const;
export type WebhookDeliveryStatus = (typeof webhookDeliveryStatuses)[number];

const delivery = {
  delivery_id: uuid,
  endpoint_id: uuid,
  message_id: z.string().meta({ description: 'The header `webhook-id`, which is the same for every attempt.' }),
  type: z.string(),
  status: z.enum(webhookDeliveryStatuses).meta({
    description:
      '`pending` while it is being tried or waits for its endpoint to be enabled; `failed` when no attempt is ' +
      'left.',
  }),
  attempts: z.int().meta({ description: 'How many times it was sent.' }),
  next_attempt_at: moment.nullable(),
  last_response_status: z.int().nullable(),
  last_error: z.string().nullable().meta({ description: 'Why the last attempt failed; null if it did not.' }),
  created_at: moment,
};

export const webhookDelivery = z.object(delivery).meta({ id: 'WebhookDelivery' });
export type WebhookDeliveryDocument = z.output<typeof webhookDelivery>;

export const webhookDeliveryPage = pageOf(webhookDelivery).meta({ id: 'WebhookDeliveryPage' });

const attempt = z
  .object({
    at: moment,
    duration_ms: z.int(),
    response_status: z.int().nullable().meta({ description: 'Null if there was no answer.' }),
    error: z.string().nullable().meta({ description: 'Why it failed; null if it did not.' }),
    response_snippet: z.string().nullable().meta({ description: 'The beginning of the body of the answer.' }),
  })
  .meta({ id: 'WebhookAttempt' });

export const webhookDeliveryDetail = z
  .object({
    ...delivery,
    payload: z.unknown().meta({ description: 'The message: `type`, `timestamp` and `data`.' }),
    attempt_log: z.array(attempt).meta({ description: 'The last attempts, newest first.' }),
  })
  .meta({ id: 'WebhookDeliveryDetail' });
export type WebhookDeliveryDetail = z.output<typeof webhookDeliveryDetail>;

export const webhookDeliveryQuery = z.strictObject({
  status: z.enum(webhookDeliveryStatuses).optional(),
  limit: z.string().optional(),
  cursor: z.string().max(1_000).optional(),
});

export const redeliverWebhooksRequest = z
  .strictObject({
    since: moment.meta({ description: 'Deliveries created at this time or later.' }),
    until: moment.optional().meta({ description: 'Deliveries created before this time. Up to now if left out.' }),
  })
  .refine(({ since, until }) => until === undefined || since < until, {
    error: 'must be later than since',
    path: ['until'],
  })
  .meta({ id: 'RedeliverWebhooksRequest', examples: [{ since: '2026-01-02T00:00:00.000Z' }] });

export const redeliveredWebhooks = z
  .object({
    redelivered: z.int().meta({ description: 'How many are being redelivered.' }),
    more: z.boolean().meta({ description: 'Whether more are left: repeat the request.' }),
  })
  .meta({ id: 'RedeliveredWebhooks' });
