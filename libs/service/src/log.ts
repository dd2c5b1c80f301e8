import { Logger } from '@nestjs/common';
import { DiagLogLevel, diag } from '@opentelemetry/api';
import { processLog } from '#telemetry';

/** Sends everything that this process logs to its log. */
export const useServiceLog = (): void => {
  Logger.overrideLogger(processLog);
  const logger = new Logger('OpenTelemetry');
  const say = (...parts: unknown[]): void => logger.warn(parts.map(String).join(' '));
  // OpenTelemetry would not report invalid measurements or failed exports by itself.
  diag.setLogger({ error: say, warn: say, info: say, debug: say, verbose: say }, DiagLogLevel.WARN);
};
