import { Controller } from '@nestjs/common';
import { inventoryContract, type ReplyOf, type RequestOf } from '#contracts';
import { Answers, type MessageMetadata } from '#messaging';
import { FindOverdueHolds } from '../use-cases/find-overdue-holds.js';
import { ReserveStock } from '../use-cases/reserve-stock.js';
import { SettleStock } from '../use-cases/settle-stock.js';

type Operations = (typeof inventoryContract)['operations'];

/** Answers the other modules. */
@Controller()
export class InventoryMessages {
  constructor(
    private readonly reserveStock: ReserveStock,
    private readonly settleStock: SettleStock,
    private readonly findOverdueHolds: FindOverdueHolds,
  ) {}

  @Answers(inventoryContract, 'reserve')
  reserve(
    request: RequestOf<Operations['reserve']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['reserve']>> {
    return this.reserveStock.execute(tenant, request);
  }

  @Answers(inventoryContract, 'settle')
  settle(
    request: RequestOf<Operations['settle']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['settle']>> {
    return this.settleStock.execute(tenant, request.effects);
  }

  @Answers(inventoryContract, 'overdue')
  overdue(request: RequestOf<Operations['overdue']>): Promise<ReplyOf<Operations['overdue']>> {
    return this.findOverdueHolds.execute(request);
  }
}
