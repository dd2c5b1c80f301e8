import { randomUUID } from 'node:crypto';
import { ClientProxyFactory, type ClientProxy } from '@nestjs/microservices';
import { firstValueFrom } from 'rxjs';
import { address, Messenger } from '#messaging';
import { carryOut } from '../commands.js';
import { Samples } from '../samples.js';
import { latencyOf } from '../statistics.js';
import { linesIn, type CallCommands, type CallLoad, type CallResult, type CallSize } from './commands.js';
import { echoContract, type EchoReply, type EchoRequest } from './contract.js';
import { bareOptions, barePattern } from './nest.js';
import { clientOfQueue, serveByQueue } from './queue.js';
import { serveBare, serveByContract } from './servers.js';

type Ask = (request: EchoRequest) => Promise<EchoReply>;

let messenger = new Messenger();
const proxies = new Map<string, ClientProxy>();

const proxyTo = (at: string): ClientProxy => {
  const proxy = proxies.get(at) ?? ClientProxyFactory.create(bareOptions(at));
  proxies.set(at, proxy);
  return proxy;
};

let ofQueue: Ask | undefined;

const asking = async ({ kind, at, balance }: CallLoad): Promise<Ask> => {
  if (kind === 'queue') return (ofQueue ??= await clientOfQueue(at));
  if (kind === 'nest') {
    const proxy = proxyTo(at);
    return (request) => firstValueFrom(proxy.send<EchoReply>(barePattern, request));
  }
  const client = messenger.clientFor(echoContract, address.parse(at), balance === undefined ? {} : { balance });
  return (request) => client.call('echo', request);
};

const linesOf = (size: CallSize): EchoRequest['lines'] =>
  Array.from({ length: linesIn[size] }, (_, at) => ({
    line_id: randomUUID(),
    product_id: `p-${String(at).padStart(4, '0')}`,
    name: `White hanging heart T-light holder ${at}`,
    quantity: 1 + (at % 9),
    unit_price_minor: 100 + at,
  }));

/** Runs callers that make their next call as soon as the last one is answered. */
const load = async (asked: CallLoad): Promise<CallResult> => {
  const ask = await asking(asked);
  const lines = linesOf(asked.size);
  const latencies = new Samples();
  const failures: Record<string, number> = {};
  const answeredBy: Record<string, number> = {};
  let [id, calls, wrong] = [0, 0, 0];
  const startedAt = performance.now();
  const stopAt = startedAt + asked.durationMs;
  const caller = async (): Promise<void> => {
    for (let beganAt = performance.now(); beganAt < stopAt;) {
      const request = { id: (id += 1), lines };
      try {
        const reply = await ask(request);
        if (reply.id === request.id && reply.lines.length === lines.length) calls += 1;
        else wrong += 1;
        answeredBy[reply.by] = (answeredBy[reply.by] ?? 0) + 1;
      } catch (error) {
        const reason = error instanceof Error ? error.message : JSON.stringify(error);
        failures[reason] = (failures[reason] ?? 0) + 1;
      }
      const endedAt = performance.now();
      latencies.add(endedAt - beganAt);
      beganAt = endedAt;
    }
  };
  await Promise.all(Array.from({ length: asked.callers }, caller));
  const seconds = (performance.now() - startedAt) / 1_000;
  return { calls, wrong, failures, seconds, answeredBy, ...latencyOf(latencies.taken()) };
};

carryOut({
  serve: async (serve) => {
    if (serve.kind === 'nest') await serveBare(serve);
    else if (serve.kind === 'queue') await serveByQueue(serve);
    else messenger = await serveByContract(serve);
  },
  load,
} satisfies CallCommands);
