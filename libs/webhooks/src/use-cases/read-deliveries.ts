import { Injectable } from '@nestjs/common';
import {
  CleaveError,
  cutPage,
  type Page,
  type WebhookDeliveryDetail,
  type WebhookDeliveryDocument,
  type WebhookDeliveryStatus,
} from '#contracts';
import { Endpoints, endpointNotFound } from './manage-endpoints.js';

export abstract class DeliveryLog {
  /** At most `limit`, newest first, older than `before`. */
  abstract page(
    tenant: string,
    endpointId: string,
    status: WebhookDeliveryStatus | undefined,
    before: string | undefined,
    limit: number,
  ): Promise<WebhookDeliveryDocument[]>;
  /** With its last `attempts`, newest first; undefined also if its endpoint was deleted. */
  abstract find(tenant: string, deliveryId: string, attempts: number): Promise<WebhookDeliveryDetail | undefined>;
}

/** Limits what is returned of a delivery that was redelivered over and over. */
const attemptsTold = 100;

/** Reads what was sent to an endpoint, and with which result. */
@Injectable()
export class ReadDeliveries {
  constructor(
    private readonly log: DeliveryLog,
    private readonly endpoints: Endpoints,
  ) {}

  async list(
    tenant: string,
    endpointId: string,
    status: WebhookDeliveryStatus | undefined,
    before: string | undefined,
    limit: number,
  ): Promise<Page<WebhookDeliveryDocument>> {
    if (!(await this.endpoints.find(tenant, endpointId))) throw endpointNotFound();
    const found = await this.log.page(tenant, endpointId, status, before, limit + 1);
    return cutPage(found, limit, (it) => it.delivery_id);
  }

  async one(tenant: string, deliveryId: string): Promise<WebhookDeliveryDetail> {
    const delivery = await this.log.find(tenant, deliveryId, attemptsTold);
    if (!delivery) throw deliveryNotFound();
    return delivery;
  }
}

export const deliveryNotFound = (): CleaveError =>
  new CleaveError('webhook-delivery-not-found', 'There is no webhook delivery with this id, or it was deleted.');
