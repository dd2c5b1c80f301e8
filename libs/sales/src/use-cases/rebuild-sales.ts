import { Injectable } from '@nestjs/common';
import type { SalesView } from '#contracts';

export abstract class RebuildableViews {
  /** Begins a view at the beginning of the log, unless one is being built already. @returns the one that is being built */
  abstract begin(): Promise<SalesView>;
  /** The newest first. */
  abstract all(): Promise<SalesView[]>;
}

/** Builds the sales anew from the log of orders, while those that are there are served and follow on. */
@Injectable()
export class RebuildSales {
  constructor(private readonly views: RebuildableViews) {}

  execute(): Promise<SalesView> {
    return this.views.begin();
  }

  progress(): Promise<SalesView[]> {
    return this.views.all();
  }
}
