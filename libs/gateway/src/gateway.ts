import { Module, type DynamicModule } from '@nestjs/common';
import { APP_INTERCEPTOR } from '@nestjs/core';
import { apiDocument, type Service } from '#service';
import { proxyTo, type ProxyTimeouts } from './proxy.js';
import { upstreamsIn, type GatewayEnvironment, type Upstream } from './routes.js';
import { UpstreamDocuments, type DocumentTimes } from './upstream-documents.js';
import { UpstreamHealth } from './upstream-health.js';

type GatewaySettings = GatewayEnvironment &
  Pick<Service, 'HOST' | 'PORT'> & { proxy?: Partial<ProxyTimeouts>; documents?: Partial<DocumentTimes> };

/** One base URL for all services: passes requests on by a table, and shows the services' documents as one. */
export const gateway = ({ HOST, PORT, proxy, documents, ...urls }: GatewaySettings): Service => {
  const upstreams = upstreamsIn(urls);
  const published = new UpstreamDocuments(upstreams, documents);
  return {
    name: 'gateway',
    HOST,
    PORT,
    document: apiDocument,
    modules: [GatewayModule.register(upstreams)],
    prepare: (app) => proxyTo(app.getHttpAdapter().getInstance(), upstreams, proxy),
    currentDocument: (own) => published.mergedInto(own),
  };
};

@Module({})
class GatewayModule {
  static register(upstreams: readonly Upstream[]): DynamicModule {
    return {
      module: GatewayModule,
      providers: [{ provide: APP_INTERCEPTOR, useFactory: () => new UpstreamHealth(upstreams) }],
    };
  }
}
