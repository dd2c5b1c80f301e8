import { randomBytes } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { limits, webhookTestType, type WebhookDeliveryDocument } from '#contracts';
import { RateLimits, tooMany } from '#security';
import { messageOf, type Message } from '../domain/message.js';
import { DeliverMessages, deliveryLimits, type DeliveryLimits } from './deliver-messages.js';
import { Endpoints, endpointNotFound } from './manage-endpoints.js';
import { deliveryNotFound } from './read-deliveries.js';

export abstract class Redeliveries {
  /** The endpoint of a delivery; undefined if there is no such delivery, or its endpoint was deleted. */
  abstract endpointOf(tenant: string, deliveryId: string): Promise<string | undefined>;
  /**
   * Makes a delivery due now, whatever its status is. A pending one keeps its place in the retry schedule; any other one
   * counts as having failed `failures` times.
   */
  abstract again(tenant: string, deliveryId: string, failures: number): Promise<WebhookDeliveryDocument | undefined>;
  /** Restarts failed deliveries, at most `limit`. @returns how many */
  abstract failedAgain(
    tenant: string,
    endpointId: string,
    since: Date,
    until: Date | undefined,
    limit: number,
  ): Promise<number>;
  /** Stores a message for this endpoint alone. @returns undefined if there is no such endpoint */
  abstract toOne(endpointId: string, message: Message): Promise<WebhookDeliveryDocument | undefined>;
}

/** Whoever may register endpoints could otherwise flood any host with messages, or register another endpoint after each. */
const tests = { requests: limits.webhookTestsAMinute, perSeconds: 60 };
const testsOfTenant = { requests: limits.webhookTestsAMinuteOfTenant, perSeconds: 60 };
const redeliveries = { requests: limits.webhookRedeliveriesAMinute, perSeconds: 60 };

const batchSize = 1_000;
const mostAtOnce = 10_000;

/** Sends messages again on request, and test messages to try an endpoint out. */
@Injectable()
export class RedeliverMessages {
  private readonly tests = new RateLimits(tests);
  private readonly testsOfTenant = new RateLimits(testsOfTenant);
  private readonly redeliveries = new RateLimits(redeliveries);

  constructor(
    private readonly deliveries: Redeliveries,
    private readonly endpoints: Endpoints,
    private readonly deliverMessages: DeliverMessages,
    @Inject(deliveryLimits) private readonly limits: DeliveryLimits,
  ) {}

  /** One more attempt, now. A delivery that is due or being sent gets no additional one. */
  async one(tenant: string, deliveryId: string): Promise<WebhookDeliveryDocument> {
    const endpointId = await this.deliveries.endpointOf(tenant, deliveryId);
    if (endpointId === undefined) throw deliveryNotFound();
    const standing = await this.redeliveries.take(endpointId);
    if (standing.isRefused) throw tooMany(standing, 'Too many messages were redelivered to this endpoint one by one.');
    const delivery = await this.deliveries.again(tenant, deliveryId, this.limits.delaysMs.length);
    if (!delivery) throw deliveryNotFound();
    this.deliverMessages.wake();
    return delivery;
  }

  /** Restarts what failed while an endpoint was out of order, with its full retry schedule. */
  async failed(
    tenant: string,
    endpointId: string,
    since: Date,
    until: Date | undefined,
  ): Promise<{ redelivered: number; more: boolean }> {
    if (!(await this.endpoints.find(tenant, endpointId))) throw endpointNotFound();
    let redelivered = 0;
    for (let last = batchSize; last === batchSize && redelivered < mostAtOnce; redelivered += last)
      last = await this.deliveries.failedAgain(tenant, endpointId, since, until, batchSize);
    this.deliverMessages.wake();
    return { redelivered, more: redelivered >= mostAtOnce };
  }

  /** Sent whatever types the endpoint asks for. */
  async test(tenant: string, endpointId: string): Promise<WebhookDeliveryDocument> {
    if (!(await this.endpoints.find(tenant, endpointId))) throw endpointNotFound();
    const ofEndpoint = await this.tests.take(endpointId);
    if (ofEndpoint.isRefused) throw tooMany(ofEndpoint, 'Too many test messages were requested for this endpoint.');
    const ofTenant = await this.testsOfTenant.take(tenant);
    if (ofTenant.isRefused)
      throw tooMany(ofTenant, 'Too many test messages were requested for the endpoints of this tenant.');
    const id = randomBytes(16).toString('hex');
    const data = { endpoint_id: endpointId };
    const message = messageOf({ tenant, source: 'webhooks', id, type: webhookTestType, at: new Date(), data });
    const delivery = await this.deliveries.toOne(endpointId, message);
    if (!delivery) throw endpointNotFound();
    this.deliverMessages.wake();
    return delivery;
  }
}
