import { Injectable } from '@nestjs/common';
import type { SalesView } from '#contracts';
import { FollowOrders } from './follow-orders.js';

export abstract class RebuildableViews {
  /** Begins a view at the start of the log, unless one is being built already. @returns the one that is being built */
  abstract begin(): Promise<SalesView>;
  /** Newest first. */
  abstract all(): Promise<SalesView[]>;
}

/** Rebuilds the sales from the log of orders, while the current ones are still served and updated. */
@Injectable()
export class RebuildSales {
  constructor(
    private readonly views: RebuildableViews,
    private readonly followOrders: FollowOrders,
  ) {}

  async execute(): Promise<SalesView> {
    const view = await this.views.begin();
    this.followOrders.wake();
    return view;
  }

  progress(): Promise<SalesView[]> {
    return this.views.all();
  }
}
