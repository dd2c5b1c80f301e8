import { z } from 'zod';
import { env } from '#config';
import { logFormats, logLevels } from './log-line.js';

const samplers = [
  ...(['parentbased_always_on', 'parentbased_always_off', 'parentbased_traceidratio'] as const),
  ...(['always_on', 'always_off', 'traceidratio'] as const),
] as const;

const ratio = z
  .string()
  .regex(/^(?:0(?:\.\d{1,9})?|1(?:\.0{1,9})?)$/, 'must be a fraction from 0 to 1, such as 0.1')
  .transform(Number);

/** The variables of every app for logs, metrics and traces; those of OpenTelemetry follow its specification. */
export const telemetryEnvironment = {
  LOG_LEVEL: env.choice(logLevels),
  LOG_FORMAT: z.enum(logFormats, `must be ${logFormats.join(' or ')}`).optional(),
  LOG_REQUESTS: env.flag,
  LOG_SLOW_MS: env.milliseconds(1_000),
  OTEL_SDK_DISABLED: env.flag,
  OTEL_SERVICE_NAME: z.string().optional(),
  OTEL_EXPORTER_OTLP_ENDPOINT: env.httpUrl.optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: env.httpUrl.optional(),
  OTEL_TRACES_SAMPLER: env.choice(samplers),
  OTEL_TRACES_SAMPLER_ARG: ratio.optional(),
};

export type TelemetrySettings = z.output<z.ZodObject<typeof telemetryEnvironment>>;
