import { Injectable, Logger, type CallHandler, type ExecutionContext, type NestInterceptor } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { forkJoin, map, type Observable } from 'rxjs';
import type { Dispatcher } from 'undici';
import type { Readiness, State } from '#health';
import type { BalancedUpstream } from './balanced-upstream.js';

type Indicators = Record<string, { status: State }>;

interface Report {
  status: 'ok' | 'degraded' | 'error' | 'shutting_down';
  info?: Indicators;
  error?: Indicators;
  details: Indicators;
}

/** For a service with modules of its own behind a gateway: shorter than that gateway's timeout and its probes. */
const timeoutBehindOthersMs = 400;
const timeoutMs = 1_500;

/**
 * Adds the upstreams to the report of `GET /health/ready`, and to the readiness metrics.
 *
 * If some upstreams are down, this service stays ready, but degraded: it still serves the others, and every instance of it
 * would see the same. A gateway with all upstreams down is not ready, because it may be this instance that is cut off.
 */
@Injectable()
export class UpstreamHealth implements NestInterceptor {
  private readonly logger = new Logger('Health');
  private readonly last = new Map<string, State>();

  constructor(
    private readonly upstreams: readonly BalancedUpstream[],
    private readonly hasNothingElse: boolean,
    readiness: Pick<Readiness, 'watchUpstreams'>,
  ) {
    readiness.watchUpstreams(async () => {
      const states = await this.states();
      return { states: new Map(states), canServe: !isCutOff(states, this.hasNothingElse) };
    });
  }

  intercept(context: ExecutionContext, next: CallHandler<Report>): Observable<unknown> {
    const http = context.switchToHttp();
    if (http.getRequest<FastifyRequest>().routeOptions.url !== '/health/ready') return next.handle();
    return forkJoin([next.handle(), this.states()]).pipe(
      map(([own, states]) => {
        const report = withUpstreams(own, states, this.hasNothingElse);
        if (report.status === 'error') http.getResponse<FastifyReply>().code(503);
        return report;
      }),
    );
  }

  private async states(): Promise<[string, State][]> {
    return Promise.all(
      this.upstreams.map(async (upstream): Promise<[string, State]> => [upstream.name, await this.stateOf(upstream)]),
    );
  }

  /** Up if all instances are, degraded while at least one can be used. */
  private async stateOf(upstream: BalancedUpstream): Promise<State> {
    const reasons: string[] = [];
    const answers = await upstream.getFromEach(
      '/health/ready',
      this.hasNothingElse ? timeoutMs : timeoutBehindOthersMs,
    );
    const states = await Promise.all(
      answers.map(async (answer): Promise<State> => {
        try {
          return await readinessIn(answer);
        } catch (error) {
          reasons.push(String(error));
          return 'down';
        }
      }),
    );
    const state = jointly(states);
    const { name } = upstream;
    if (state !== (this.last.get(name) ?? 'up')) this.logger.warn([`${name} is ${state}`, ...reasons].join(': '));
    this.last.set(name, state);
    return state;
  }
}

const jointly = (states: readonly State[]): State => {
  if (states.every((state) => state === 'down')) return 'down';
  return states.every((state) => state === 'up') ? 'up' : 'degraded';
};

const readinessIn = async (answer: PromiseSettledResult<Dispatcher.ResponseData>): Promise<State> => {
  if (answer.status === 'rejected') throw answer.reason;
  const { statusCode, body } = answer.value;
  if (statusCode !== 200) {
    await body.dump();
    throw new Error(`it answers ${statusCode}`);
  }
  const { status } = (await body.json()) as { status?: unknown };
  return status === 'degraded' ? 'degraded' : 'up';
};

const withUpstreams = (own: Report, states: [string, State][], hasNothingElse: boolean): Report => {
  const indicators = (wanted: (state: State) => boolean): Indicators =>
    Object.fromEntries(states.filter(([, state]) => wanted(state)).map(([name, status]) => [name, { status }]));
  return {
    status:
      own.status === 'ok' || own.status === 'degraded' ? statusWith(own.status, states, hasNothingElse) : own.status,
    info: { ...own.info, ...indicators((state) => state !== 'down') },
    error: { ...own.error, ...indicators((state) => state === 'down') },
    details: { ...own.details, ...indicators(() => true) },
  };
};

const isCutOff = (states: [string, State][], hasNothingElse: boolean): boolean =>
  hasNothingElse && states.every(([, state]) => state === 'down');

const statusWith = (own: Report['status'], states: [string, State][], hasNothingElse: boolean): Report['status'] => {
  if (isCutOff(states, hasNothingElse)) return 'error';
  return states.some(([, state]) => state !== 'up') ? 'degraded' : own;
};
