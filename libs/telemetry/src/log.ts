import { inspect } from 'node:util';
import type { LoggerService } from '@nestjs/common';
import { pino, type Logger as Pino } from 'pino';
import { asJson, asText, logLevels, withoutSecrets, type LogFormat, type LogLevel } from './log-line.js';
import { currentWork } from './work.js';

/** Contexts in which Nest reports how it wires itself up. */
const wiring = new Set([
  'InstanceLoader',
  'NestApplication',
  'NestFactory',
  'NestMicroservice',
  'RouterExplorer',
  'RoutesResolver',
]);

/** Contexts in which Nest logs errors that it also throws: what prevents a start is logged once, where it is caught. */
const saidElsewhere = new Set(['ExceptionHandler', 'NestApplication', 'NestMicroservice']);

/** The message server logs this error and also throws it. */
const isOfListening = (message: unknown): boolean =>
  message instanceof Error && (message as NodeJS.ErrnoException).syscall === 'listen';

interface LogOptions {
  format: LogFormat;
  level?: LogLevel;
  /** Only text is coloured; JSON never is. */
  isColoured?: boolean;
  /** Receives each line, with its line break. */
  write: (line: string) => void;
}

/**
 * Nest's logger, which writes lines of JSON or text for people. Each line names its request, trace, tenant and order, as
 * far as they are known. Secrets are masked.
 */
export class ServiceLog implements LoggerService {
  /** Whether it writes text for people. */
  readonly isForPeople: boolean;
  private readonly pino: Pino;
  private timer: NodeJS.Timeout | undefined;
  /** The level to return to after a temporary one. */
  private lasting: LogLevel;

  constructor({ format, level = 'info', isColoured = false, write }: LogOptions) {
    this.isForPeople = format === 'text';
    this.lasting = level;
    const print = (line: string) => write(format === 'json' ? asJson(line) : asText(line, isColoured));
    this.pino = pino(
      {
        level,
        base: null,
        timestamp: pino.stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
        mixin: ofCurrentWork,
      },
      { write: print },
    );
  }

  /** The service that the following lines are attributed to. */
  set service(name: string) {
    this.pino.setBindings({ service: name });
  }

  get level(): LogLevel {
    return this.pino.level as LogLevel;
  }

  /** @param forMs how long the level lasts before the previous one returns; without it, it lasts for good */
  setLevel(level: LogLevel, forMs?: number): void {
    clearTimeout(this.timer);
    this.pino.level = level;
    if (forMs === undefined) this.lasting = level;
    else this.timer = setTimeout(() => (this.pino.level = this.lasting), forMs).unref();
  }

  log(message: unknown, ...rest: unknown[]): void {
    if (!wiring.has(String(rest.at(-1)))) this.write('info', message, rest);
  }

  error(message: unknown, ...rest: unknown[]): void {
    if (!saidElsewhere.has(String(rest.at(-1))) && !isOfListening(message)) this.write('error', message, rest);
  }

  warn(message: unknown, ...rest: unknown[]): void {
    this.write('warn', message, rest);
  }

  debug(message: unknown, ...rest: unknown[]): void {
    this.write('debug', message, rest);
  }

  verbose(message: unknown, ...rest: unknown[]): void {
    this.write('trace', message, rest);
  }

  fatal(message: unknown, ...rest: unknown[]): void {
    this.write('fatal', message, rest);
  }

  /** Takes its arguments as Nest passes them to loggers: a message, perhaps a stack or fields, and last the context. */
  private write(level: LogLevel, message: unknown, rest: readonly unknown[]): void {
    if (!this.pino.isLevelEnabled(level)) return;
    const texts = rest.filter((it) => typeof it === 'string');
    const context = texts.findLast((it) => !isStack(it));
    const stack = texts.find(isStack) ?? (message instanceof Error ? message.stack : undefined);
    const fields = rest.find((it) => typeof it === 'object' && it !== null);
    this.pino[level](
      { ...(context !== undefined && { context }), ...fields, ...(stack && { stack: withoutSecrets(stack) }) },
      // Without pino's placeholders: the message is not a format.
      '%s',
      withoutSecrets(textOf(message)),
    );
  }
}

const isStack = (text: string): boolean => /\n[^\S\n]{1,40}at |^caused by: /m.test(text);

/** Never throws, because it describes something that has already gone wrong. */
const textOf = (message: unknown): string => {
  if (message instanceof Error) return String(message.message);
  if (typeof message === 'string') return message;
  try {
    return JSON.stringify(message) ?? String(message);
  } catch {
    // Circular structures and big integers cannot be written as JSON.
    return inspect(message);
  }
};

const ofCurrentWork = (): Record<string, string> => {
  const { requestId, traceparent, tenant, orderId } = currentWork() ?? {};
  return {
    ...(requestId !== undefined && { request_id: requestId }),
    ...(traceparent !== undefined && { trace_id: traceparent.slice(3, 35), span_id: traceparent.slice(36, 52) }),
    ...(tenant !== undefined && { tenant }),
    ...(orderId !== undefined && { order_id: orderId }),
  };
};

/** The log of this process, shared by all its apps. JSON, unless it goes to a terminal or text is asked for. */
export const processLog = new ServiceLog({
  format:
    process.env['LOG_FORMAT'] === 'text' || (process.stdout.isTTY && process.env['LOG_FORMAT'] !== 'json')
      ? 'text'
      : 'json',
  level: logLevels.find((it) => it === process.env['LOG_LEVEL']) ?? 'info',
  isColoured: Boolean(process.stdout.isTTY) && !process.env['NO_COLOR'],
  write: (line) => void process.stdout.write(line),
});
