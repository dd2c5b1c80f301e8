import 'reflect-metadata';
import { Logger, Module, type DynamicModule } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { ConfigurationError, env } from '#config';
import { HealthModule } from '#health';
import { MessagingModule, listenForMessages, type Address } from '#messaging';
import { useServiceLog } from './log.js';
import { closeOnSignals, createRestApp, mountDocs, openApiDocument, type DocumentOptions } from '#rest';

/** Where a process answers REST. */
export const restEnvironment = (port: number) => ({ HOST: env.host('127.0.0.1'), PORT: env.port(port) });

export interface Service {
  /** The name of the process, as it shows in the log. */
  name: string;
  document: DocumentOptions;
  modules: DynamicModule[];
  HOST: string;
  PORT: number;
  /** Where the modules answer messages from other processes. */
  listen?: Address[];
  /** Does what the app needs before it is initialised, such as registering plugins. */
  prepare?: (app: NestFastifyApplication) => Promise<void>;
  /** Mounts the document in place of `mountDocs`, where what is shown is more than the app's own. */
  docs?: typeof mountDocs;
  /** What is stopped after the app, in this order. */
  after?: (() => Promise<unknown>)[];
}

/** The app of a service, complete but not listening: what `serve` starts and the OpenAPI document is drawn from. */
export const createService = async ({
  document,
  modules,
  prepare,
  docs = mountDocs,
}: Service): Promise<NestFastifyApplication> => {
  const app = await createRestApp({
    module: ServiceModule,
    imports: [MessagingModule.forRoot(), HealthModule, ...modules],
  });
  await prepare?.(app);
  docs(app, openApiDocument(app, document));
  return app;
};

@Module({})
class ServiceModule {}

/** Starts a service and keeps it running until the process is told to stop. @returns the address it answers at */
export const serve = async (service: Service): Promise<string> => {
  const app = await createService(service);
  closeOnSignals(app, { after: service.after ?? [] });
  await listenForMessages(app, service.listen ?? []);
  await app.listen(service.PORT, service.HOST);
  const url = (await app.getUrl()).replace('[::1]', 'localhost');
  new Logger(service.name).log(`answers at ${url}, Swagger UI at ${url}/docs`);
  return url;
};

/** Runs a program: what keeps it from starting is said in words, without a stack where the person can mend it. */
export const run = (main: () => Promise<unknown>): void => {
  useServiceLog();
  // Nobody reads the output any more: no reason to drop what is in flight.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', ignoreClosedPipe);
  // Whoever started this process and keeps a channel to it is gone: so is the reason to run.
  if (process.connected) process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
  main().catch((error: unknown) => {
    const known = error instanceof ConfigurationError || (error instanceof Error && 'code' in error);
    process.stderr.write(`${known ? error.message : error instanceof Error ? error.stack : String(error)}\n`);
    process.exit(1);
  });
};

const ignoreClosedPipe = (error: NodeJS.ErrnoException): void => {
  if (error.code !== 'EPIPE') throw error;
};
