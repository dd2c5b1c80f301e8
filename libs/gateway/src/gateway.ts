import { Module, type DynamicModule } from '@nestjs/common';
import { APP_INTERCEPTOR } from '@nestjs/core';
import { apiDocument, type Service } from '#service';
import { Metrics } from '#telemetry';
import { BalancedUpstream, type UpstreamOptions } from './balanced-upstream.js';
import { proxyTo } from './proxy.js';
import { upstreamsIn, type GatewayEnvironment } from './routes.js';
import { UpstreamDocuments, type DocumentTimes } from './upstream-documents.js';
import { UpstreamHealth } from './upstream-health.js';

type GatewaySettings = GatewayEnvironment &
  Pick<Service, 'HOST' | 'PORT'> & { proxy?: Partial<UpstreamOptions>; documents?: Partial<DocumentTimes> };

/** One base URL for all services: passes requests on by a table, and shows the services' documents as one. */
export const gateway = ({ HOST, PORT, proxy, documents, ...urls }: GatewaySettings): Service => {
  const upstreams = upstreamsIn(urls).map((upstream) => new BalancedUpstream(upstream, proxy));
  const published = new UpstreamDocuments(upstreams, documents);
  return {
    name: 'gateway',
    HOST,
    PORT,
    document: apiDocument,
    modules: [GatewayModule.register(upstreams)],
    prepare: (app) => {
      for (const upstream of upstreams) upstream.reportTo(app.get(Metrics).meter('balancing'));
      return proxyTo(app.getHttpAdapter().getInstance(), upstreams);
    },
    currentDocument: (own) => published.mergedInto(own),
  };
};

@Module({})
class GatewayModule {
  static register(upstreams: readonly BalancedUpstream[]): DynamicModule {
    return {
      module: GatewayModule,
      providers: [{ provide: APP_INTERCEPTOR, useFactory: () => new UpstreamHealth(upstreams) }],
    };
  }
}
