import { address } from '#messaging';
import { freePort, startNats, startRedis } from '#testing';
import type { Bench } from '../bench.js';
import { measureCalls, warmUpCalls, type Calling } from '../call.js';
import { callKinds, linesIn, type CallCommands, type CallKind, type CallSize } from '../calls/commands.js';
import { Program } from '../commands.js';
import { takeTurns } from '../turns.js';

export const callsCallers = [1, 50];
export const callSizes = Object.keys(linesIn) as CallSize[];
export const callsOver = (transport: TransportName, size: CallSize): string => `calls over ${transport}, ${size}`;

type TransportName = 'in-process' | 'tcp' | 'redis' | 'nats';

/** A transport, and the broker that it needs. */
interface Transport {
  name: TransportName;
  /** The implementations with a server for it: Nest has none in-process, and the bare queue is only in Redis. */
  kinds: readonly CallKind[];
  broker?(): Promise<{ url: string; pid?: number | undefined; stop(): Promise<unknown> }>;
}

const transports: Transport[] = [
  { name: 'in-process', kinds: ['ours'] },
  { name: 'tcp', kinds: ['ours', 'nest'] },
  { name: 'redis', kinds: callKinds, broker: startRedis },
  { name: 'nats', kinds: ['ours', 'nest'], broker: startNats },
];

const measureTransport = async (bench: Bench, { name, kinds, broker }: Transport): Promise<void> => {
  const { options, report, started, say } = bench;
  say(`calls: starting ${name}`);
  const between = broker && started.add(await broker());
  const callings: Calling[] = [];
  for (const kind of kinds) {
    const at = name === 'in-process' ? 'in-process:' : (between?.url ?? `tcp://127.0.0.1:${await freePort()}`);
    const server = started.add(new Program<CallCommands>('calls'));
    await server.call('serve', { kind, at, name: 'one', serviceMs: 0 });
    const client = name === 'in-process' ? server : started.add(new Program<CallCommands>('calls'));
    for (const size of callSizes)
      for (const callers of callsCallers)
        callings.push({
          ...{ contestant: kind, workload: callsOver(name, size), client, servers: [server], kind, at, size, callers },
          ...(between?.pid !== undefined && { brokerPid: between.pid }),
        });
  }
  for (const calling of callings) if (calling.callers > 1) await warmUpCalls(bench, calling);
  // Ours and Nest's alternate, instead of all of ours before all of theirs.
  const inPairs = callings.toSorted((a, b) => order(a) - order(b));
  const turns = inPairs.map((calling) => ({
    name: `${calling.workload}, ${calling.contestant}, callers: ${calling.callers}`,
    take: async () => void report.runs.push(await measureCalls(bench, calling)),
  }));
  await takeTurns(turns, options.rounds, say);
  const programs = callings.flatMap((it) => [...it.servers, it.client]);
  await started.stop(...(between ? [between] : []), ...new Set(programs));
};

const order = ({ size, callers }: Calling): number => 10_000 * linesIn[size] + callers;

/** The cost of a call over each transport: ours, with everything that a contract adds, and Nest's own beside it. */
export const callsSuite = async (bench: Bench): Promise<void> => {
  for (const transport of transports) {
    const url = transport.name === 'nats' ? 'nats://127.0.0.1:4222' : undefined;
    if (url === undefined || address.safeParse(url).success) await measureTransport(bench, transport);
    else bench.report.notes.push(`${transport.name} is not among the transports of the contracts: not measured`);
  }
};
