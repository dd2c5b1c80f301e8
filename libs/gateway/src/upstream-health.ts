import { Injectable, Logger, type CallHandler, type ExecutionContext, type NestInterceptor } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { forkJoin, map, type Observable } from 'rxjs';
import type { Upstream } from './routes.js';

type State = 'up' | 'degraded' | 'down';
type Indicators = Record<string, { status: State }>;

interface Report {
  status: 'ok' | 'degraded' | 'error' | 'shutting_down';
  info?: Indicators;
  error?: Indicators;
  details: Indicators;
}

const timeoutMs = 1_500;

/**
 * Adds the upstreams to the report of `GET /health/ready`.
 *
 * One that is down leaves this service ready, if degraded: what the others answer is still worth having, and every
 * instance of it would say the same. A gateway all of whose upstreams are down is not ready: then it may well be this
 * instance that is cut off, and another one that is not.
 */
@Injectable()
export class UpstreamHealth implements NestInterceptor {
  private readonly logger = new Logger('Health');
  private readonly last = new Map<string, State>();

  constructor(
    private readonly upstreams: readonly Upstream[],
    private readonly hasNothingElse: boolean,
  ) {}

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
      this.upstreams.map(async ({ name, origin }): Promise<[string, State]> => [
        name,
        await this.stateOf(name, origin),
      ]),
    );
  }

  private async stateOf(name: string, origin: string): Promise<State> {
    let reason = '';
    const state = await readinessOf(origin).catch((error: unknown): State => {
      const { message, cause } = error as Error;
      reason = `: ${cause ? String(cause) : message}`;
      return 'down';
    });
    if (state !== (this.last.get(name) ?? 'up')) this.logger.warn(`${name} is ${state}${reason}`);
    this.last.set(name, state);
    return state;
  }
}

const readinessOf = async (origin: string): Promise<State> => {
  const answer = await fetch(`${origin}/health/ready`, { redirect: 'error', signal: AbortSignal.timeout(timeoutMs) });
  if (!answer.ok) {
    await answer.body?.cancel();
    throw new Error(`it answers ${answer.status}`);
  }
  const { status } = (await answer.json()) as { status?: unknown };
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

const statusWith = (own: Report['status'], states: [string, State][], hasNothingElse: boolean): Report['status'] => {
  if (hasNothingElse && states.every(([, state]) => state === 'down')) return 'error';
  return states.some(([, state]) => state !== 'up') ? 'degraded' : own;
};
