import { CacheModule } from '#cache';
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
  Parameters<typeof WebhooksModule.register>[0];

export const modules = (settings: Settings) => [
  OrderModule.register(settings),
  InventoryModule.register(settings),
  PaymentModule.register(settings),
  CacheModule.register(settings),
  SalesModule.register(settings),
  WebhooksModule.register(settings),
];
