import { Module, type DynamicModule } from '@nestjs/common';
import { APP_INTERCEPTOR } from '@nestjs/core';
import { Readiness, UpstreamLogLevels } from '#health';
import { apiDocument, type RestSettings, type Service } from '#service';
import { Authenticator } from '#security';
import { Metrics, Traces } from '#telemetry';
import { BalancedUpstream, type UpstreamOptions } from './balanced-upstream.js';
import { proxyTo } from './proxy.js';
import { upstreamsIn, type GatewayEnvironment, type Upstream } from './routes.js';
import { UpstreamDocuments, type DocumentTimes } from './upstream-documents.js';
import { UpstreamHealth } from './upstream-health.js';
import { UpstreamLogs } from './upstream-logs.js';

type Passing = { proxy?: UpstreamOptions; documents?: Partial<DocumentTimes> };
type GatewaySettings = GatewayEnvironment & RestSettings & Passing;

/** One base URL for all services: routes requests to them by a table, and merges their OpenAPI documents. */
export const gateway = ({ proxy, documents, ...settings }: GatewaySettings): Service => ({
  ...settings,
  name: 'gateway',
  from: 'callers',
  document: apiDocument,
  ...passingOn(upstreamsIn(settings), { proxy, documents, hasNothingElse: true }),
});

/**
 * What a service needs to route requests to other services, and to merge their documents with its own.
 *
 * @param hasNothingElse whether the service is useless, and so not ready, without any upstream
 */
export const passingOn = (
  to: readonly Upstream[],
  { proxy, documents, hasNothingElse = false }: Passing & { hasNothingElse?: boolean } = {},
): Pick<Service, 'modules' | 'prepare' | 'currentDocument' | 'passesOn'> => {
  const upstreams = to.map((upstream) => new BalancedUpstream(upstream, proxy));
  const published = new UpstreamDocuments(upstreams, documents);
  return {
    passesOn: true,
    modules: [PassingOnModule.register(upstreams, hasNothingElse)],
    prepare: (app) => {
      for (const upstream of upstreams) upstream.reportTo(app.get(Metrics).meter('balancing'));
      const isTracing = () => app.get(Traces).areOpen;
      return proxyTo(app.getHttpAdapter().getInstance(), upstreams, app.get(Authenticator), isTracing);
    },
    currentDocument: (own) => published.mergedInto(own),
  };
};

@Module({})
class PassingOnModule {
  static register(upstreams: readonly BalancedUpstream[], hasNothingElse: boolean): DynamicModule {
    return {
      module: PassingOnModule,
      global: true,
      providers: [
        {
          provide: APP_INTERCEPTOR,
          inject: [Readiness],
          useFactory: (readiness: Readiness) => new UpstreamHealth(upstreams, hasNothingElse, readiness),
        },
        {
          provide: UpstreamLogLevels,
          inject: [Authenticator],
          useFactory: (authenticator: Authenticator) => new UpstreamLogs(upstreams, authenticator),
        },
      ],
      exports: [UpstreamLogLevels],
    };
  }
}
