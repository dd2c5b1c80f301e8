import type { Api } from '../../support/api.js';
import type { Ledger } from '../../support/ledger.js';
import type { Shape } from '../../support/shapes.js';

/** Shared by all tests: the system as callers see it, and the data behind it. Filled before the first test. */
export interface World {
  api: Api;
  ledger: Ledger;
  shape: Shape;
}
