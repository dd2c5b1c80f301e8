import type { DynamicModule } from '@nestjs/common';
import { AccessModule } from '#access';
import { CacheModule } from '#cache';
import type { GatewayEnvironment } from '#gateway';
import { InventoryModule } from '#inventory';
import { OrderModule } from '#order';
import { PaymentModule } from '#payment';
import { SalesModule } from '#sales';
import { WebhooksModule } from '#webhooks';

type Settings = Parameters<typeof OrderModule.register>[0] &
  Parameters<typeof InventoryModule.register>[0] &
  Parameters<typeof PaymentModule.register>[0] &
  Parameters<typeof CacheModule.register>[0] &
  Parameters<typeof SalesModule.register>[0] &
  Parameters<typeof WebhooksModule.register>[0] &
  Parameters<typeof AccessModule.register>[0] &
  Partial<GatewayEnvironment>;

type Keys = Settings['DATA_KEYS'];

/** All modules that run in this process. @param keys the encryption keys of the modules that encrypt data */
export const modules = (settings: Settings, keys: { order: Keys; webhooks: Keys }): DynamicModule[] => [
  ...(settings.ORDER_URL ? [] : [OrderModule.register({ ...settings, DATA_KEYS: keys.order })]),
  ...(settings.INVENTORY_URL ? [] : [InventoryModule.register(settings)]),
  ...(settings.PAYMENT_URL ? [] : [PaymentModule.register(settings)]),
  ...(settings.CACHE_URL ? [] : [CacheModule.register(settings)]),
  ...(settings.SALES_URL ? [] : [SalesModule.register(settings)]),
  ...(settings.WEBHOOKS_URL ? [] : [WebhooksModule.register({ ...settings, DATA_KEYS: keys.webhooks })]),
  AccessModule.register(settings),
];
