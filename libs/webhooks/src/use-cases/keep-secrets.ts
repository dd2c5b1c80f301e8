import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { MasterKeys } from '#security';

/** A stored secret: encrypted under a master key, in base64; or in plain text, if there was no master key. */
export type KeptSecret = { secret: string } | { master: string; sealed: string };

/** Encrypts and decrypts the secrets of endpoints, each bound to its endpoint. */
@Injectable()
export class KeepSecrets {
  constructor(private readonly masters: MasterKeys) {}

  /** The ids of the master keys that are configured here. */
  get masterIds(): string[] {
    return this.masters.ids;
  }

  /** Leaves the secret in plain text if there is no master key. */
  seal(tenant: string, endpointId: string, secret: string): KeptSecret {
    if (!this.masters.newest) return { secret };
    const { masterId, wrapped } = this.masters.wrap(Buffer.from(secret), contextOf(tenant, endpointId));
    return { master: masterId, sealed: wrapped.toString('base64') };
  }

  /** @throws CleaveError `data-key-missing` if it was encrypted under a master key that is not configured */
  open(tenant: string, endpointId: string, kept: KeptSecret): string {
    if ('secret' in kept) return kept.secret;
    if (typeof kept.sealed !== 'string') throw new CleaveError('data-key-missing', unknownForm);
    const wrapped = { masterId: kept.master, wrapped: Buffer.from(kept.sealed, 'base64') };
    return this.masters.unwrap(wrapped, contextOf(tenant, endpointId)).toString();
  }

  canOpen(tenant: string, endpointId: string, kept: KeptSecret): boolean {
    try {
      this.open(tenant, endpointId, kept);
      return true;
    } catch (error) {
      if (error instanceof CleaveError) return false;
      throw error;
    }
  }
}

const contextOf = (tenant: string, endpointId: string): string[] => ['webhook secret', tenant, endpointId];

const unknownForm =
  'The secret of this endpoint is stored in an unknown format: it was changed by hand. Rotate the secret.';
