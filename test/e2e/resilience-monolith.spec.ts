import { describe, expect, it } from '@jest/globals';
import { acknowledged, callers, expectAnswers, withTrial } from '../support/trial.js';
import { followersGoOn } from './followers.js';

describe('the monolith', () => {
  const holder = withTrial('monolith');

  it('answers the requests in flight before it exits on SIGTERM', async () => {
    const { trial } = holder;
    const service = trial.shape.service('monolith');
    const load = trial.load();
    await load.until(() => load.answered.length > 300 && load.inFlight.length === callers);
    const accepted = load.inFlight;
    expect(await service.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    const attempts = await load.end();
    expectAnswers(accepted, [201, 409]);
    // Later requests find the port closed, or their connection: EPIPE is what a write after the reset reports.
    expectAnswers(attempts, [201, 409, 'ECONNREFUSED', 'ECONNRESET', 'EPIPE']);
    expect(load.summary()).toMatch(/ECONN|EPIPE/);
    await service.restart();
    for (const { order } of acknowledged(attempts).slice(-100))
      expect(await trial.api.order(order!.order_id)).toEqual(order);
    await trial.settle();
  });

  it.each([
    ['the process', false],
    ['the process with its Postgres', true],
  ])('neither loses nor duplicates orders when %s is killed under load', async (_, withPostgres) => {
    const { trial } = holder;
    const service = trial.shape.service('monolith');
    const load = trial.load();
    await load.until(() => load.answered.length > 200);
    const postmaster = withPostgres ? await trial.shape.postmasterPid() : undefined;
    const exit = service.kill('SIGKILL');
    if (postmaster !== undefined) process.kill(postmaster, 'SIGKILL');
    expect(await exit).toEqual({ code: null, signal: 'SIGKILL' });
    await load.end();
    expect(load.attempts.length).toBeGreaterThan(load.answered.length);
    await service.restart();
    await trial.settle();
  });

  it('ends event streams when it stops, and clients resume after the last event they saw', () =>
    followersGoOn(holder.trial, 'monolith'));
});
