import { ConsoleLogger, Logger } from '@nestjs/common';
import { DiagLogLevel, diag } from '@opentelemetry/api';

/** Contexts in which Nest tells how it wires itself up. */
const wiring = new Set([
  'InstanceLoader',
  'NestApplication',
  'NestFactory',
  'NestMicroservice',
  'RouterExplorer',
  'RoutesResolver',
]);

/** Contexts in which Nest logs what it throws as well: what keeps the app from starting is said once, where it is caught. */
const saidElsewhere = new Set(['ExceptionHandler', 'NestApplication', 'NestMicroservice']);

/** The server of the messages logs this and throws it. */
const isOfListening = (message: unknown): boolean =>
  message instanceof Error && (message as NodeJS.ErrnoException).syscall === 'listen';

/** Nest's log without the wiring, so that what a person needs to know stands out; coloured for people only. */
class ServiceLogger extends ConsoleLogger {
  override log(message: unknown, ...rest: unknown[]): void {
    if (wiring.has(String(rest.at(-1)))) return;
    super.log(message, ...(rest as [string]));
  }

  override error(message: unknown, ...rest: unknown[]): void {
    if (saidElsewhere.has(String(rest.at(-1))) || isOfListening(message)) return;
    super.error(message, ...(rest as [string]));
  }
}

export const useServiceLog = (): void => {
  Logger.overrideLogger(new ServiceLogger({ colors: Boolean(process.stdout.isTTY) && !process.env['NO_COLOR'] }));
  const logger = new Logger('OpenTelemetry');
  const say = (...parts: unknown[]): void => logger.warn(parts.map(String).join(' '));
  // What it finds wrong with a measurement it would keep to itself.
  diag.setLogger({ error: say, warn: say, info: say, debug: say, verbose: say }, DiagLogLevel.WARN);
};
