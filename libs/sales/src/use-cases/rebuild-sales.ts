import { Injectable } from '@nestjs/common';
import type { SalesView } from '#contracts';
import { FollowOrders } from './follow-orders.js';

export abstract class RebuildableViews {
  /** Begins a view at the beginning of the log, unless one is being built already. @returns the one that is being built */
  abstract begin(): Promise<SalesView>;
  /** The newest first. */
  abstract all(): Promise<SalesView[]>;
}

/** Builds the sales anew from the log of orders, while those that are there are served and follow on. */
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
