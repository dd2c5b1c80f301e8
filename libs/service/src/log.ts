import { Logger } from '@nestjs/common';
import { DiagLogLevel, diag } from '@opentelemetry/api';
import { processLog } from '#telemetry';

/** Has everything that is logged in this process go into its log. */
export const useServiceLog = (): void => {
  Logger.overrideLogger(processLog);
  const logger = new Logger('OpenTelemetry');
  const say = (...parts: unknown[]): void => logger.warn(parts.map(String).join(' '));
  // What it finds wrong with a measurement, or cannot get rid of, it would keep to itself.
  diag.setLogger({ error: say, warn: say, info: say, debug: say, verbose: say }, DiagLogLevel.WARN);
};
