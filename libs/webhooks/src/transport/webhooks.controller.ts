import { Body, Controller, Delete, Get, Header, HttpCode, Param, Patch, Post, Query, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import {
  changeWebhookEndpointRequest,
  createWebhookEndpointRequest,
  createdWebhookEndpoint,
  limits,
  redeliverWebhooksRequest,
  redeliveredWebhooks,
  webhookDelivery,
  webhookDeliveryDetail,
  webhookDeliveryPage,
  webhookDeliveryQuery,
  webhookEndpoint,
  webhookEndpointPage,
  webhookEndpointQuery,
  webhookSecret,
} from '#contracts';
import { CalledBy, Cursors, Endpoint, pageLimit, uuidOr, valid } from '#rest';
import type { Caller } from '#security';
import { ManageEndpoints, endpointNotFound } from '../use-cases/manage-endpoints.js';
import { ReadDeliveries, deliveryNotFound } from '../use-cases/read-deliveries.js';
import { RedeliverMessages } from '../use-cases/redeliver-messages.js';

const cursor = z.object({ before: z.uuid() });
const endpointIdParameter = z.string().meta({ description: 'The `endpoint_id` of the endpoint.' });
const deliveryIdParameter = z.string().meta({ description: 'A `delivery_id` from the list.' });

/** Where merchants configure their webhooks, and see what was sent. */
@ApiTags('webhooks')
@Controller()
export class WebhooksController {
  constructor(
    private readonly manageEndpoints: ManageEndpoints,
    private readonly readDeliveries: ReadDeliveries,
    private readonly redeliverMessages: RedeliverMessages,
    private readonly cursors: Cursors,
  ) {}

  @Post('webhook-endpoints')
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'createWebhookEndpoint',
    summary: 'Register an endpoint',
    description:
      'From now on, events of the chosen types are posted to its URL, signed with its secret according to the ' +
      'Standard Webhooks specification. If it does not answer 2xx in time, a message is sent again for three ' +
      'days, at growing intervals.',
    replies: {
      201: {
        schema: createdWebhookEndpoint,
        description: 'The endpoint, and the secret that verifies signatures',
        headers: { Location: 'The address of the endpoint' },
      },
    },
    errors: ['webhook-url-refused', 'too-many-webhook-endpoints'],
  })
  async create(
    @Body(valid(createWebhookEndpointRequest)) body: z.output<typeof createWebhookEndpointRequest>,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof createdWebhookEndpoint>> {
    const endpoint = await this.manageEndpoints.register(caller.tenant, body);
    reply.header('Location', `/webhook-endpoints/${endpoint.endpoint_id}`);
    return endpoint;
  }

  @Get('webhook-endpoints')
  @Endpoint({
    scope: 'webhooks:read',
    operationId: 'listWebhookEndpoints',
    summary: 'List endpoints, newest first',
    replies: { 200: { schema: webhookEndpointPage, description: 'One page of endpoints' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(webhookEndpointQuery)) query: z.output<typeof webhookEndpointQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookEndpointPage>> {
    const { data, last } = await this.manageEndpoints.list(
      caller.tenant,
      this.cursors.read(query.cursor, cursor)?.before,
      pageLimit(query.limit),
    );
    return { data, next_cursor: this.cursorOf(last) };
  }

  @Get('webhook-endpoints/:endpoint_id')
  @Endpoint({
    scope: 'webhooks:read',
    operationId: 'getWebhookEndpoint',
    summary: 'Read an endpoint',
    replies: { 200: { schema: webhookEndpoint, description: 'The endpoint' } },
    errors: ['webhook-endpoint-not-found'],
  })
  get(
    @Param('endpoint_id', valid(endpointIdParameter)) id: string,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookEndpoint>> {
    return this.manageEndpoints.one(caller.tenant, uuidOr(id, endpointNotFound));
  }

  @Patch('webhook-endpoints/:endpoint_id')
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'changeWebhookEndpoint',
    summary: 'Change an endpoint',
    description:
      'Members that are left out stay as they are. When the endpoint is enabled again, messages that wait for ' +
      'it are sent.',
    replies: { 200: { schema: webhookEndpoint, description: 'The changed endpoint' } },
    errors: ['webhook-endpoint-not-found', 'webhook-url-refused'],
  })
  change(
    @Param('endpoint_id', valid(endpointIdParameter)) id: string,
    @Body(valid(changeWebhookEndpointRequest)) body: z.output<typeof changeWebhookEndpointRequest>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookEndpoint>> {
    return this.manageEndpoints.change(caller.tenant, uuidOr(id, endpointNotFound), body);
  }

  @Delete('webhook-endpoints/:endpoint_id')
  @HttpCode(204)
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'deleteWebhookEndpoint',
    summary: 'Delete an endpoint',
    description: 'Messages that wait for it are not sent, and its past deliveries can no longer be read.',
    replies: { 204: { description: 'The endpoint is deleted' } },
    errors: ['webhook-endpoint-not-found'],
  })
  delete(@Param('endpoint_id', valid(endpointIdParameter)) id: string, @CalledBy() caller: Caller): Promise<void> {
    return this.manageEndpoints.forget(caller.tenant, uuidOr(id, endpointNotFound));
  }

  @Get('webhook-endpoints/:endpoint_id/secret')
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'getWebhookSecret',
    summary: 'Read the signing secret of an endpoint',
    replies: { 200: { schema: webhookSecret, description: 'The secret' } },
    errors: ['webhook-endpoint-not-found', 'data-key-missing'],
  })
  secret(
    @Param('endpoint_id', valid(endpointIdParameter)) id: string,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookSecret>> {
    return this.manageEndpoints.secretOf(caller.tenant, uuidOr(id, endpointNotFound));
  }

  @Post('webhook-endpoints/:endpoint_id/rotate-secret')
  @HttpCode(200)
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'rotateWebhookSecret',
    summary: 'Rotate the signing secret of an endpoint',
    description: 'For 24 hours, messages are signed with the old secret as well.',
    replies: { 200: { schema: webhookSecret, description: 'The new secret' } },
    errors: ['webhook-endpoint-not-found'],
  })
  rotate(
    @Param('endpoint_id', valid(endpointIdParameter)) id: string,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookSecret>> {
    return this.manageEndpoints.rotate(caller.tenant, uuidOr(id, endpointNotFound));
  }

  @Post('webhook-endpoints/:endpoint_id/test')
  @HttpCode(202)
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'testWebhookEndpoint',
    summary: 'Send a test message (`webhook.test`) to an endpoint',
    description:
      `At most ${limits.webhookTestsAMinute} a minute for each endpoint, and ${limits.webhookTestsAMinuteOfTenant} for all ` +
      'endpoints of a tenant, including deleted ones.',
    replies: { 202: { schema: webhookDelivery, description: 'Its delivery, which is being sent' } },
    errors: ['webhook-endpoint-not-found', 'too-many-requests'],
  })
  test(
    @Param('endpoint_id', valid(endpointIdParameter)) id: string,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookDelivery>> {
    return this.redeliverMessages.test(caller.tenant, uuidOr(id, endpointNotFound));
  }

  @Get('webhook-endpoints/:endpoint_id/deliveries')
  @Endpoint({
    scope: 'webhooks:read',
    operationId: 'listWebhookDeliveries',
    summary: 'List the deliveries to an endpoint, newest first',
    description:
      'Deliveries are kept for 30 days. One that is still pending then is kept until it is settled, for 60 days ' +
      'at most.',
    replies: { 200: { schema: webhookDeliveryPage, description: 'One page of deliveries' } },
    errors: ['webhook-endpoint-not-found', 'invalid-cursor'],
  })
  async deliveries(
    @Param('endpoint_id', valid(endpointIdParameter)) id: string,
    @Query(valid(webhookDeliveryQuery)) { status, limit, cursor: given }: z.output<typeof webhookDeliveryQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookDeliveryPage>> {
    const { data, last } = await this.readDeliveries.list(
      caller.tenant,
      uuidOr(id, endpointNotFound),
      status,
      this.cursors.read(given, cursor)?.before,
      pageLimit(limit),
    );
    return { data, next_cursor: this.cursorOf(last) };
  }

  @Post('webhook-endpoints/:endpoint_id/redeliver')
  @HttpCode(202)
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'redeliverFailedWebhooks',
    summary: 'Redeliver what failed',
    description:
      'Covers the failed deliveries that were created in the given time, up to 10,000 per request. Each gets ' +
      'all its attempts again.',
    replies: { 202: { schema: redeliveredWebhooks, description: 'They are being redelivered' } },
    errors: ['webhook-endpoint-not-found'],
  })
  redeliverFailed(
    @Param('endpoint_id', valid(endpointIdParameter)) id: string,
    @Body(valid(redeliverWebhooksRequest)) { since, until }: z.output<typeof redeliverWebhooksRequest>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof redeliveredWebhooks>> {
    return this.redeliverMessages.failed(caller.tenant, uuidOr(id, endpointNotFound), since, until);
  }

  @Get('webhook-deliveries/:delivery_id')
  @Endpoint({
    scope: 'webhooks:read',
    operationId: 'getWebhookDelivery',
    summary: 'Read a delivery: the message and its attempts',
    replies: { 200: { schema: webhookDeliveryDetail, description: 'The delivery' } },
    errors: ['webhook-delivery-not-found'],
  })
  delivery(
    @Param('delivery_id', valid(deliveryIdParameter)) id: string,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookDeliveryDetail>> {
    return this.readDeliveries.one(caller.tenant, uuidOr(id, deliveryNotFound));
  }

  @Post('webhook-deliveries/:delivery_id/redeliver')
  @HttpCode(202)
  @Endpoint({
    scope: 'webhooks:write',
    operationId: 'redeliverWebhook',
    summary: 'Redeliver a message now',
    description:
      'Sends it again with the same `webhook-id`, even if it was delivered already. A pending delivery is sent ' +
      'immediately; one that is due or being sent is not sent twice. ' +
      `At most ${limits.webhookRedeliveriesAMinute} a minute for each endpoint: to send everything that failed, ` +
      'use `POST /webhook-endpoints/{endpoint_id}/redeliver`.',
    replies: { 202: { schema: webhookDelivery, description: 'The delivery, which is being sent' } },
    errors: ['webhook-delivery-not-found', 'too-many-requests'],
  })
  redeliver(
    @Param('delivery_id', valid(deliveryIdParameter)) id: string,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof webhookDelivery>> {
    return this.redeliverMessages.one(caller.tenant, uuidOr(id, deliveryNotFound));
  }

  private cursorOf(last: string | null): string | null {
    return last === null ? null : this.cursors.write({ before: last });
  }
}
