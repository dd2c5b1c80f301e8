import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { MasterKeys } from '#security';

/** A secret as it is kept: encrypted by way of a master key, in base64, or as it is where there was none. */
export type KeptSecret = { secret: string } | { master: string; sealed: string };

/** Encrypts the secrets of endpoints, each as that of its endpoint alone, and decrypts them. */
@Injectable()
export class KeepSecrets {
  constructor(private readonly masters: MasterKeys) {}

  /** The names of the master keys that are here to decrypt them. */
  get masterIds(): string[] {
    return this.masters.ids;
  }

  /** As it is where there is nothing to encrypt it by. */
  seal(tenant: string, endpointId: string, secret: string): KeptSecret {
    if (!this.masters.newest) return { secret };
    const { masterId, wrapped } = this.masters.wrap(Buffer.from(secret), contextOf(tenant, endpointId));
    return { master: masterId, sealed: wrapped.toString('base64') };
  }

  /** @throws CleaveError `data-key-missing` where it was encrypted by way of a key that is not configured */
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
