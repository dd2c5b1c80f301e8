import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import { KeyRotation, MasterKeys } from '#security';
import { deliveryLimits, type DeliveryLimits } from './deliver-messages.js';
import { KeepSecrets, type KeptSecret } from './keep-secrets.js';

/** The secrets of an endpoint, newest first. All but the first have an end (`until`). */
export interface SecretsOfEndpoint {
  tenant: string;
  endpointId: string;
  secrets: (KeptSecret & { until?: string })[];
}

/** The secrets of all endpoints, by the master key that encrypts them: null for those in plain text. */
export abstract class KeptSecrets {
  /** Deletes the secrets that have ended. */
  abstract forgetEnded(): Promise<void>;
  abstract mastersInUse(): Promise<(string | null)[]>;
  /** At most `limit` endpoints with a secret under this master key, ordered by id, after `after`. */
  abstract under(
    master: string | null,
    after: SecretsOfEndpoint | undefined,
    limit: number,
  ): Promise<SecretsOfEndpoint[]>;
  /** Replaces the secrets of those endpoints that still have the same. Other processes may do so at the same time. */
  abstract replace(rows: readonly { before: SecretsOfEndpoint; after: SecretsOfEndpoint }[]): Promise<void>;
}

/** Encrypts the secrets of endpoints under the newest master key, including those in plain text. */
@Injectable()
export class RotateSecrets extends KeyRotation<SecretsOfEndpoint> implements OnModuleInit {
  private readonly startedAt = performance.now();

  constructor(
    private readonly kept: KeptSecrets,
    private readonly secrets: KeepSecrets,
    masters: MasterKeys,
    @Inject(deliveryLimits) private readonly limits: DeliveryLimits,
  ) {
    super(masters, 'secrets of webhooks');
  }

  onModuleInit(): void {
    if (!this.masters.newest)
      this.logger.warn('DATA_KEYS is not set, so the secrets of webhooks are stored unencrypted in the database');
  }

  override async execute(): Promise<void> {
    await this.kept.forgetEnded();
    await super.execute();
  }

  protected async mastersInUse(): Promise<(string | null)[]> {
    const inUse = await this.kept.mastersInUse();
    const leavesPlain = performance.now() - this.startedAt < this.limits.plainForMs;
    return leavesPlain ? inUse.filter((it) => it !== null) : inUse;
  }

  protected under(
    master: string | null,
    after: SecretsOfEndpoint | undefined,
    limit: number,
  ): Promise<SecretsOfEndpoint[]> {
    return this.kept.under(master, after, limit);
  }

  protected renewed({ tenant, endpointId, secrets }: SecretsOfEndpoint, master: string | null): SecretsOfEndpoint {
    const renewed = secrets.map((it) => {
      if (('master' in it ? it.master : null) !== master) return it;
      const sealed = this.secrets.seal(tenant, endpointId, this.secrets.open(tenant, endpointId, it));
      return it.until === undefined ? sealed : { ...sealed, until: it.until };
    });
    return { tenant, endpointId, secrets: renewed };
  }

  protected replace(
    _master: string | null,
    rows: readonly { before: SecretsOfEndpoint; after: SecretsOfEndpoint }[],
  ): Promise<void> {
    return this.kept.replace(rows);
  }
}
