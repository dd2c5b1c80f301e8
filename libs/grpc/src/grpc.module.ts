import { Admission } from '#admission';
import { Global, Injectable, Module, Optional, type INestApplication, type OnModuleDestroy } from '@nestjs/common';
import { Readiness } from '#health';
import { Authenticator } from '#security';
import { Metrics, Traces, type RequestLog } from '#telemetry';
import type { GrpcService } from './definition.js';
import type { GrpcClientLimits, GrpcServer } from './grpc-server.js';

const healthEveryMs = 1_000;

/** Where and how a gRPC service listens. */
export interface GrpcListening {
  /** `host:port`; no server if undefined. */
  at: string | undefined;
  service: GrpcService;
  /** The environment variable with the address. */
  variable: string;
  /** No limits if left out. */
  limits?: GrpcClientLimits;
}

/** Starts and stops the gRPC server of an app, if it has one. */
@Injectable()
export class GrpcListener implements OnModuleDestroy {
  private server: GrpcServer | undefined;

  constructor(
    private readonly readiness: Readiness,
    @Optional() private readonly metrics?: Metrics,
    @Optional() private readonly traces?: Traces,
  ) {}

  /**
   * Serves the `@GrpcMethod`s of an initialised application. They have a Nest pipeline of their own: global guards, pipes,
   * interceptors and filters of the REST side do not apply, so their controllers need `@UseFilters(StatusFilter)`.
   *
   * @throws Error that names the address and what is wrong with it
   */
  async open(
    app: INestApplication,
    { at, service, variable, limits }: GrpcListening,
    requestLog: RequestLog,
  ): Promise<void> {
    if (at === undefined) return;
    const admission = app.get(Admission, { strict: false });
    const authenticator = app.get(Authenticator, { strict: false });
    const { metrics, traces } = this;
    // Loaded only if it is used, because grpc-js and protobufjs take a tenth of the time of a start.
    const { GrpcServer } = await import('./grpc-server.js');
    const server = new GrpcServer(at, service, admission, authenticator, requestLog, metrics, traces, limits);
    const microservice = app.connectMicroservice({ strategy: server });
    try {
      await microservice.listen();
    } catch (error) {
      const advice = `Set ${variable} to an address that is free, or stop what uses this one.`;
      throw new Error(`Cannot serve gRPC at ${at} (${(error as Error).message}). ${advice}`, { cause: error });
    }
    this.server = server;
    this.tellHealth(server);
  }

  /** After REST, and before anything stops that running calls may need. */
  async onModuleDestroy(): Promise<void> {
    await this.server?.drain();
  }

  private tellHealth(server: GrpcServer): void {
    const tell = async (): Promise<void> => {
      const canServe = await this.readiness.canServe();
      server.tellHealth(canServe && !this.readiness.shuttingDown);
      if (!this.readiness.shuttingDown) setTimeout(() => void tell(), healthEveryMs).unref();
    };
    this.readiness.whenShuttingDown(() => server.tellHealth(false));
    void tell();
  }
}

@Global()
@Module({ providers: [GrpcListener], exports: [GrpcListener] })
export class GrpcModule {}
