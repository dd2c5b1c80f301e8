import { ConsoleLogger, Logger } from '@nestjs/common';

/** Contexts in which Nest tells how it wires itself up. */
const wiring = new Set([
  'InstanceLoader',
  'NestApplication',
  'NestFactory',
  'NestMicroservice',
  'RouterExplorer',
  'RoutesResolver',
]);

/** Nest's log without the wiring, so that what a person needs to know stands out; coloured for people only. */
class ServiceLogger extends ConsoleLogger {
  override log(message: unknown, ...rest: unknown[]): void {
    if (wiring.has(String(rest.at(-1)))) return;
    super.log(message, ...(rest as [string]));
  }

  override error(message: unknown, ...rest: unknown[]): void {
    // What keeps the app from starting is thrown as well, and said once where it is caught.
    if (rest.at(-1) === 'ExceptionHandler') return;
    super.error(message, ...(rest as [string]));
  }
}

export const useServiceLog = (): void =>
  Logger.overrideLogger(new ServiceLogger({ colors: Boolean(process.stdout.isTTY) && !process.env['NO_COLOR'] }));
