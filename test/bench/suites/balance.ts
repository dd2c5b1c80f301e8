import { freePort } from '#testing';
import type { BalancePolicy } from '#messaging';
import type { Bench } from '../bench.js';
import { measureCalls, warmUpCalls } from '../call.js';
import type { CallCommands } from '../calls/commands.js';
import { Program } from '../commands.js';
import { takeTurns } from '../turns.js';

const balancePolicies = ['random', 'round-robin', 'least-loaded'] as const satisfies BalancePolicy[];
export const balanceNames = { none: 'three instances, none slow', one: 'three instances, one slow' };
export const balanceCallers = 50;

/** Long enough that callers wait for it rather than for the CPU: everything runs on the machine under test. */
const serviceMs = 10;
const slowServiceMs = 10 * serviceMs;

/** How calls are distributed when one of three instances is ten times slower, and how long callers wait. */
export const balanceSuite = async (bench: Bench): Promise<void> => {
  const { options, report, started, say } = bench;
  say('balance: starting');
  const instance = async (name: string, takesMs: number) => {
    const at = `127.0.0.1:${await freePort()}`;
    const program = started.add(new Program<CallCommands>('calls'));
    await program.call('serve', { kind: 'ours', at: `tcp://${at}`, name, serviceMs: takesMs });
    return { program, at };
  };
  const one = await instance('one', serviceMs);
  const two = await instance('two', serviceMs);
  const three = await instance('three', serviceMs);
  const slow = await instance('slow', slowServiceMs);
  const client = started.add(new Program<CallCommands>('calls'));
  const callings = (['none', 'one'] as const).flatMap((slowOnes) => {
    const instances = [one, two, slowOnes === 'none' ? three : slow];
    return balancePolicies.map((balance) => ({
      ...{ contestant: balance, workload: balanceNames[slowOnes], callers: balanceCallers, kind: 'ours' as const },
      ...{ client, servers: instances.map((it) => it.program), balance, size: 'some 200 B' as const },
      at: `tcp://${instances.map((it) => it.at).join(',')}`,
    }));
  });
  for (const calling of callings) await warmUpCalls(bench, calling);
  const turns = callings.map((calling) => ({
    name: `${calling.workload}, ${calling.contestant}`,
    take: async () => void report.runs.push(await measureCalls(bench, calling)),
  }));
  await takeTurns(turns, options.rounds, say);
  await started.stop(...[one, two, three, slow].map((it) => it.program), client);
};
