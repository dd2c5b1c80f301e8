import type { Balance } from '../src/balance.js';
import { PeakLatency } from '../src/peak-latency.js';

interface Simulated {
  pick: Balance;
  /** Each makes its next call when the last one is answered. */
  callers: number;
  /** The duration of a call to a healthy instance. */
  latencyMs: () => number;
  /** By which factor calls to each of the instances are slower. */
  factors: readonly number[];
  /** When all instances become healthy. */
  recoversAtMs?: number;
  /** When the first instance stops answering. */
  hangsAtMs?: number;
  untilMs?: number;
}

/** Simulates calls to several instances in virtual time; the first tenth of it is not counted. */
export const simulate = ({
  pick,
  callers,
  latencyMs,
  factors,
  recoversAtMs = Infinity,
  hangsAtMs = Infinity,
  untilMs = 10_000,
}: Simulated) => {
  let now = 0;
  const instances = factors.map((factor) => {
    const [latency, it] = [new PeakLatency(), { factor, inFlight: 0, calls: 0 }];
    const measured = (tookMs: number) => latency.measured(tookMs, now);
    return Object.assign(it, { measured, cost: () => latency.costOf(it.inFlight, now) });
  });
  const pending = new Pending();
  const taken: number[] = [];
  const call = (): void => {
    const instance = pick(instances);
    const tookMs = latencyMs() * (now < recoversAtMs ? instance.factor : 1);
    instance.inFlight += 1;
    instance.calls += 1;
    if (now >= hangsAtMs && instance === instances[0]) return;
    pending.add(now + tookMs, () => {
      instance.inFlight -= 1;
      instance.measured(tookMs);
      if (now > untilMs / 10) taken.push(tookMs);
      if (now < untilMs) call();
    });
  };
  for (let caller = 0; caller < callers; caller += 1) call();
  for (let next = pending.take(); next; next = pending.take()) {
    now = next.at;
    next.happen();
  }
  taken.sort((a, b) => a - b);
  const calls = instances.reduce((sum, it) => sum + it.calls, 0);
  return {
    p99Ms: taken[Math.floor(taken.length * 0.99)] as number,
    shares: instances.map((it) => it.calls / calls),
    unanswered: instances[0]!.inFlight,
  };
};

/** Future events, the next one last. */
class Pending {
  private readonly events: { at: number; happen: () => void }[] = [];

  add(at: number, happen: () => void): void {
    let place = this.events.length;
    while (place > 0 && (this.events[place - 1] as { at: number }).at < at) place -= 1;
    this.events.splice(place, 0, { at, happen });
  }

  take(): { at: number; happen: () => void } | undefined {
    return this.events.pop();
  }
}
