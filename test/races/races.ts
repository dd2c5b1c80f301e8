import { loads } from './races/loads.js';
import { namespaces } from './races/namespaces.js';
import { outages } from './races/outages.js';
import { staleValues } from './races/stale-values.js';
import { timeToLive } from './races/time-to-live.js';
import type { Contestant } from './contestants.js';
import type { Outcome, Race } from './race.js';
import { Stage } from './stage.js';

export const races: readonly Race[] = [...staleValues, ...timeToLive, ...loads, ...namespaces, ...outages];

/** Runs a race on a stage of its own, and cleans up. */
export const runRace = async (race: Race, contestant: Contestant): Promise<Outcome> => {
  const stage = new Stage(contestant);
  try {
    return await race.run(contestant, stage);
  } finally {
    await stage.clear();
  }
};
