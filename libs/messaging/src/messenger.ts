import { AdmissionModule } from '#admission';
import { reportTo, type BalancePolicy } from '#balancing';
import { CleaveError, type Contract } from '#contracts';
import type { ServiceSecrets } from '#security';
import { Metrics, Traces } from '#telemetry';
import { Injectable, Module, Optional, type DynamicModule, type OnApplicationShutdown } from '@nestjs/common';
import type { Address, Endpoint } from './address.js';
import { contractClient, type ContractClient, type Route } from './client.js';
import { InProcessHub, InProcessRoute } from './in-process.js';
import { NatsRoute } from './nats-route.js';
import { ObservedCalls } from './observed-calls.js';
import { RedisRoute } from './redis-route.js';
import { Signing } from './signing.js';
import { TcpRoute, tcpTargets } from './tcp-route.js';

const largestOf = (contract: Contract): number =>
  Math.max(...Object.values(contract.operations).map(({ maxBytes }) => maxBytes));

/**
 * Provides typed clients of other modules: `messenger.clientFor(contract, address)`. The address alone decides whether a
 * call stays in this process or travels over TCP, Redis or NATS. Clients connect on first use.
 */
@Injectable()
export class Messenger implements OnApplicationShutdown {
  /** `listenForMessages` registers this application's own modules here. */
  readonly hub = new InProcessHub();
  private readonly nearContracts = new Set<string>();
  private readonly routes = new Map<string, Route>();
  private isClosed = false;

  /** Records the calls that this application makes and answers. */
  readonly calls: ObservedCalls;

  constructor(
    @Optional() private readonly metrics?: Metrics,
    /** Signs messages between services; undefined if they share no secret. */
    @Optional() readonly signing?: Signing,
    @Optional() traces?: Traces,
  ) {
    this.calls = new ObservedCalls(metrics, traces);
  }

  /** Clients of one module at one address with one policy share their connections. */
  clientFor<C extends Contract>(
    contract: C,
    at: Address,
    { balance = 'least-loaded' }: { balance?: BalancePolicy } = {},
  ): ContractClient<C> {
    const key = JSON.stringify([contract.name, at, balance]);
    const route = this.routes.get(key) ?? this.open(contract, at, balance);
    this.routes.set(key, route);
    const stopping = () =>
      new CleaveError('unavailable', 'The application is stopping; send the request to another instance');
    const ask: Route['ask'] = (question, ended) => {
      if (!this.isClosed) return route.ask(question, ended);
      ended(stopping());
      return () => undefined;
    };
    const signing = at.scheme === 'in-process' ? undefined : this.signing;
    return contractClient(contract, { ask }, this.calls, signing);
  }

  /**
   * Checks that every module configured as in-process runs in this process. Called once it listens in-process.
   *
   * @throws Error that names the module and the variable that sets its address
   */
  refuseAbsentModules(): void {
    for (const name of this.nearContracts) {
      if (this.hub.server?.answersFor(name)) continue;
      throw new Error(
        `${name} is configured as in-process:, but it does not run in this process. ` +
          `Set ${name.toUpperCase()}_AT to the address where it runs.`,
      );
    }
  }

  /** The last shutdown hook: requests that are answered before it may still need the other modules. */
  async onApplicationShutdown(): Promise<void> {
    this.isClosed = true;
    this.hub.server = undefined;
    this.hub.opening.resolve();
    await Promise.all([...this.routes.values()].map((route) => route.close()));
    this.routes.clear();
  }

  private open(contract: Contract, at: Address, balance: BalancePolicy): Route {
    switch (at.scheme) {
      case 'in-process':
        this.nearContracts.add(contract.name);
        return new InProcessRoute(this.hub);
      case 'tcp':
        return this.openTcp(contract, at.endpoints, balance);
      case 'redis':
        return new RedisRoute(at.url, contract.name);
      case 'nats':
        return new NatsRoute(at, contract.name, largestOf(contract));
    }
  }

  private openTcp(contract: Contract, at: readonly Endpoint[], policy: BalancePolicy): Route {
    const targets = tcpTargets({ name: contract.name, at, policy }, largestOf(contract));
    if (this.metrics) reportTo(this.metrics.meter('balancing'), targets, 'tcp');
    return new TcpRoute(targets);
  }
}

@Module({})
export class MessagingModule {
  /** Provides the Messenger globally. @param secrets sign messages to and from other processes */
  static forRoot({ secrets }: { secrets?: ServiceSecrets | undefined } = {}): DynamicModule {
    return {
      module: MessagingModule,
      global: true,
      imports: [AdmissionModule],
      providers: [Messenger, { provide: Signing, useValue: secrets && new Signing(secrets) }],
      exports: [Messenger],
    };
  }
}
