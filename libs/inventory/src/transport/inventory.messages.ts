import { Controller } from '@nestjs/common';
import { inventoryContract, type ReplyOf, type RequestOf } from '#contracts';
import { Answers, type MessageMetadata } from '#messaging';
import { FindOverdueHolds } from '../use-cases/find-overdue-holds.js';
import { FinishBranches } from '../use-cases/finish-branches.js';
import { JoinOrders } from '../use-cases/join-orders.js';
import { ReadStock } from '../use-cases/read-stock.js';
import { ReserveStock } from '../use-cases/reserve-stock.js';
import { SettleStock } from '../use-cases/settle-stock.js';

type Operations = (typeof inventoryContract)['operations'];

/** Answers messages of other modules. */
@Controller()
export class InventoryMessages {
  constructor(
    private readonly joinOrders: JoinOrders,
    private readonly reserveStock: ReserveStock,
    private readonly settleStock: SettleStock,
    private readonly findOverdueHolds: FindOverdueHolds,
    private readonly finishBranches: FinishBranches,
    private readonly readStock: ReadStock,
  ) {}

  @Answers(inventoryContract, 'join')
  async join({ orders_id }: RequestOf<Operations['join']>): Promise<ReplyOf<Operations['join']>> {
    return { inventory_id: await this.joinOrders.execute(orders_id) };
  }

  @Answers(inventoryContract, 'reserve')
  async reserve(
    { inventory_id, ...request }: RequestOf<Operations['reserve']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['reserve']>> {
    await this.joinOrders.refuseOthers(inventory_id);
    return this.reserveStock.execute(tenant, request);
  }

  @Answers(inventoryContract, 'prepare')
  async prepare(
    { inventory_id, ...request }: RequestOf<Operations['prepare']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['prepare']>> {
    await this.joinOrders.refuseOthers(inventory_id);
    return this.reserveStock.execute(tenant, request);
  }

  @Answers(inventoryContract, 'finish')
  async finish({ branch_id, outcome }: RequestOf<Operations['finish']>): Promise<ReplyOf<Operations['finish']>> {
    await this.finishBranches.execute(branch_id, outcome);
    return {};
  }

  @Answers(inventoryContract, 'in_doubt')
  async inDoubt(): Promise<ReplyOf<Operations['in_doubt']>> {
    return { branches: await this.finishBranches.inDoubt() };
  }

  @Answers(inventoryContract, 'settle')
  async settle(
    { inventory_id, effects }: RequestOf<Operations['settle']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['settle']>> {
    await this.joinOrders.refuseOthers(inventory_id);
    return this.settleStock.execute(tenant, effects);
  }

  @Answers(inventoryContract, 'stock')
  async stock(
    { product_id }: RequestOf<Operations['stock']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['stock']>> {
    return { stock: (await this.readStock.find(tenant, product_id)) ?? null };
  }

  @Answers(inventoryContract, 'overdue')
  overdue(request: RequestOf<Operations['overdue']>): Promise<ReplyOf<Operations['overdue']>> {
    return this.findOverdueHolds.execute(request);
  }
}
