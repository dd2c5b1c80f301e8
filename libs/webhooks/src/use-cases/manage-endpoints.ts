import { Injectable } from '@nestjs/common';
import {
  CleaveError,
  cutPage,
  limits,
  type ChangeWebhookEndpointRequest,
  type CreateWebhookEndpointRequest,
  type Page,
  type WebhookEndpointDocument,
  type WebhookSecretDocument,
} from '#contracts';
import { newSecret } from '../domain/signature.js';
import { DeliverMessages } from './deliver-messages.js';
import { KeepSecrets, type KeptSecret } from './keep-secrets.js';

export abstract class Endpoints {
  /** A new endpoint id, which sorts after all earlier ones. */
  abstract newId(): Promise<string>;
  /** @returns undefined if the tenant has `most` endpoints already */
  abstract register(
    tenant: string,
    endpointId: string,
    given: CreateWebhookEndpointRequest,
    secret: KeptSecret,
    most: number,
  ): Promise<WebhookEndpointDocument | undefined>;
  abstract find(tenant: string, endpointId: string): Promise<WebhookEndpointDocument | undefined>;
  /** At most `limit`, newest first, older than `before`. */
  abstract page(tenant: string, before: string | undefined, limit: number): Promise<WebhookEndpointDocument[]>;
  /** Changes the given fields. Enabling an endpoint clears the reason for which it was disabled. */
  abstract change(
    tenant: string,
    endpointId: string,
    given: ChangeWebhookEndpointRequest,
  ): Promise<WebhookEndpointDocument | undefined>;
  /** @returns whether there was such an endpoint */
  abstract forget(tenant: string, endpointId: string): Promise<boolean>;
  abstract secretOf(tenant: string, endpointId: string): Promise<NewestSecret | undefined>;
  /** All secrets that sign, newest first. */
  abstract secretsOf(tenant: string, endpointId: string): Promise<KeptSecret[]>;
  /**
   * Adds a secret. The newest `kept` of the others stay valid for `overlapMs`, or until the end that they have already.
   *
   * @param without secrets that end at once
   */
  abstract rotate(
    tenant: string,
    endpointId: string,
    secret: KeptSecret,
    overlapMs: number,
    kept: number,
    without: readonly KeptSecret[],
  ): Promise<NewestSecret | undefined>;
}

/** The newest secret of an endpoint, and until when the one before it is valid. */
export interface NewestSecret extends Pick<WebhookSecretDocument, 'previous_until'> {
  kept: KeptSecret;
}

/** Decides where messages may be sent. */
export abstract class AddressRules {
  /** Why nothing is sent there; undefined if it is allowed, as far as can be told without a DNS lookup. */
  abstract faultOf(url: URL): string | undefined;
}

/** How long receivers have to learn a new secret. */
const overlapMs = 24 * 3_600_000;
/** How many secrets before the newest one still sign. */
const keptSecrets = 4;

/** Keeps the endpoints of merchants and the secrets they share with us. */
@Injectable()
export class ManageEndpoints {
  constructor(
    private readonly endpoints: Endpoints,
    private readonly rules: AddressRules,
    private readonly deliverMessages: DeliverMessages,
    private readonly secrets: KeepSecrets,
  ) {}

  async register(
    tenant: string,
    given: CreateWebhookEndpointRequest,
  ): Promise<WebhookEndpointDocument & { secret: string }> {
    this.refuseUrl(given.url);
    const secret = newSecret();
    const endpointId = await this.endpoints.newId();
    const kept = this.secrets.seal(tenant, endpointId, secret);
    const endpoint = await this.endpoints.register(tenant, endpointId, given, kept, limits.webhookEndpoints);
    if (endpoint) return { ...endpoint, secret };
    throw new CleaveError(
      'too-many-webhook-endpoints',
      `There are ${limits.webhookEndpoints} endpoints. Delete one that is not needed any more.`,
    );
  }

  async one(tenant: string, endpointId: string): Promise<WebhookEndpointDocument> {
    return found(await this.endpoints.find(tenant, endpointId));
  }

  async list(tenant: string, before: string | undefined, limit: number): Promise<Page<WebhookEndpointDocument>> {
    return cutPage(await this.endpoints.page(tenant, before, limit + 1), limit, (it) => it.endpoint_id);
  }

  async change(
    tenant: string,
    endpointId: string,
    given: ChangeWebhookEndpointRequest,
  ): Promise<WebhookEndpointDocument> {
    if (given.url !== undefined) this.refuseUrl(given.url);
    const endpoint = found(await this.endpoints.change(tenant, endpointId, given));
    if (given.enabled) this.deliverMessages.wake();
    return endpoint;
  }

  async forget(tenant: string, endpointId: string): Promise<void> {
    if (!(await this.endpoints.forget(tenant, endpointId))) throw endpointNotFound();
  }

  async secretOf(tenant: string, endpointId: string): Promise<WebhookSecretDocument> {
    const { kept, previous_until } = found(await this.endpoints.secretOf(tenant, endpointId));
    return { secret: this.secrets.open(tenant, endpointId, kept), previous_until };
  }

  /** Secrets that cannot be decrypted end now: they cannot sign, and while they are valid nothing is sent without them. */
  async rotate(tenant: string, endpointId: string): Promise<WebhookSecretDocument> {
    const secret = newSecret();
    const kept = this.secrets.seal(tenant, endpointId, secret);
    const before = await this.endpoints.secretsOf(tenant, endpointId);
    const lost = before.filter((it) => !this.secrets.canOpen(tenant, endpointId, it));
    const rotated = await this.endpoints.rotate(tenant, endpointId, kept, overlapMs, keptSecrets, lost);
    if (lost.length > 0) this.deliverMessages.wake();
    return { secret, previous_until: found(rotated).previous_until };
  }

  private refuseUrl(url: string): void {
    const fault = this.rules.faultOf(new URL(url));
    if (fault !== undefined)
      throw new CleaveError(
        'webhook-url-refused',
        `${fault} Use another URL; to try webhooks out, start Cleave with WEBHOOKS_ALLOW_PRIVATE=true.`,
      );
  }
}

export const endpointNotFound = (): CleaveError =>
  new CleaveError('webhook-endpoint-not-found', 'There is no webhook endpoint with this id.');

const found = <T>(it: T | undefined): T => {
  if (it === undefined) throw endpointNotFound();
  return it;
};
