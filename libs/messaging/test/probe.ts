import { CleaveError, contract, moment, type Contract, type Operation } from '#contracts';
import { ServiceSecrets } from '#security';
import {
  Catch,
  Controller,
  Inject,
  Injectable,
  Module,
  UseFilters,
  UseGuards,
  UseInterceptors,
  UsePipes,
  type CallHandler,
  type CanActivate,
  type DynamicModule,
  type ExecutionContext,
  type INestApplication,
  type LoggerService,
  type NestInterceptor,
  type PipeTransform,
  type RpcExceptionFilter,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { tap, throwError, type Observable } from 'rxjs';
import { z } from 'zod';
import {
  Answers,
  MessagingModule,
  Messenger,
  listenForMessages,
  type Address,
  type MessageMetadata,
} from '../src/index.js';

const values = z.object({
  text: z.string(),
  at: moment,
  maybe: z.string().nullable(),
  left_out: z.string().optional(),
  nested: z.object({ moments: z.array(moment.nullable()), deep: z.object({ empty: z.array(z.int()) }) }),
  anything: z.unknown(),
});

const common = { idempotent: true, deadlineMs: 10_000, maxBytes: 20_000 } as const;

const worked = {
  ...common,
  maxBytes: 2_000_000,
  /** Refuses if `length`, that of the text in the reply, is negative. */
  request: z.object({ id: z.string(), forMs: z.int(), length: z.int(), text: z.string() }),
  reply: z.object({ id: z.string(), by: z.string(), text: z.string() }),
  errors: ['out-of-stock'],
} as const satisfies Omit<Operation, 'summary'>;
type Work = z.output<typeof worked.request>;

/** The operations that the tests call, in-process and over every transport. */
export const probeContract = contract('probe', {
  echo: { ...common, summary: 'Gives back what it gets.', request: values, reply: values, errors: [] },
  ping: { ...common, summary: 'Answers nothing.', request: z.undefined(), reply: z.undefined(), errors: [] },
  refuse: {
    ...common,
    summary: 'Fails in the way asked for.',
    request: z.object({
      how: z.enum(['listed', 'unlisted', 'crash', 'teapot', 'wrong-reply', 'unavailable', 'guard']),
    }),
    reply: z.object({ fine: z.literal(true) }),
    errors: ['out-of-stock'],
  },
  metadata: {
    ...common,
    summary: 'Tells the metadata it was called with.',
    request: z.object({}),
    reply: z.object({
      deadline_at: moment,
      tenant: z.string(),
      key: z.string().nullable(),
      trace: z.string().nullable(),
    }),
    errors: [],
  },
  wait: {
    ...common,
    deadlineMs: 60_000,
    summary: 'Answers when it is let go.',
    request: z.object({ id: z.string() }),
    reply: z.string(),
    errors: [],
  },
  waitOnce: {
    ...common,
    deadlineMs: 60_000,
    idempotent: false,
    summary: 'The same, and must not be carried out twice.',
    request: z.object({ id: z.string() }),
    reply: z.string(),
    errors: [],
  },
  once: {
    ...common,
    idempotent: false,
    summary: 'Must not be carried out twice.',
    request: z.object({ id: z.string() }),
    reply: z.object({ by: z.string() }),
    errors: [],
  },
  fill: {
    ...common,
    summary: 'Gives a text of a length.',
    request: z.object({ length: z.int(), filling: z.string().optional() }),
    reply: z.string(),
    errors: [],
  },
  flood: {
    ...common,
    deadlineMs: 60_000,
    maxBytes: 4_194_304,
    summary: 'Gives back a long text.',
    request: z.string(),
    reply: z.string(),
    errors: [],
  },
  torrent: {
    ...common,
    idempotent: false,
    deadlineMs: 60_000,
    maxBytes: 16_777_216,
    summary: 'Gives back as long a text as any.',
    request: z.string(),
    reply: z.string(),
    errors: [],
  },
  work: { ...worked, summary: 'Works for a while.' },
  workOnce: { ...worked, idempotent: false, summary: 'The same, and must not be carried out twice.' },
  orphan: { ...common, summary: 'Nobody answers this.', request: z.object({}), reply: z.object({}), errors: [] },
});
export type ProbeValues = z.output<typeof values>;

/** Records what happened in one instance, and holds requests back until the test lets them go. */
class Journal {
  readonly carriedOut: string[] = [];
  readonly pipeline: string[] = [];
  onArrival: (id: string) => void = () => undefined;
  private readonly arrivals = new Map<string, PromiseWithResolvers<void>>();
  private readonly gates = new Map<string, PromiseWithResolvers<void>>();

  constructor(readonly instance: string) {}

  arrived(id: string): Promise<void> {
    return this.of(this.arrivals, id).promise;
  }

  letGo(id: string): void {
    this.of(this.gates, id).resolve();
  }

  async pass(id: string): Promise<void> {
    this.onArrival(id);
    this.of(this.arrivals, id).resolve();
    await this.of(this.gates, id).promise;
  }

  private of(them: Map<string, PromiseWithResolvers<void>>, id: string): PromiseWithResolvers<void> {
    const known = them.get(id) ?? Promise.withResolvers<void>();
    them.set(id, known);
    return known;
  }
}

class Teapot extends Error {}

@Injectable()
class ProbeGuard implements CanActivate {
  constructor(@Inject(Journal) private readonly journal: Journal) {}

  canActivate(context: ExecutionContext): boolean {
    const [request, metadata] = context.getArgs<[{ how?: string }, MessageMetadata]>();
    this.journal.pipeline.push(`guard sees ${metadata.tenant}`);
    if (request?.how === 'guard') throw new CleaveError('unavailable', 'the guard says no');
    return true;
  }
}

@Injectable()
class ProbeInterceptor implements NestInterceptor {
  constructor(@Inject(Journal) private readonly journal: Journal) {}

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const request = context.switchToRpc().getData<{ at?: unknown }>();
    return next.handle().pipe(
      tap((reply: { at?: unknown }) => {
        const seen = [request?.at, reply?.at].map((at) => (at instanceof Date ? 'a Date' : typeof at));
        this.journal.pipeline.push(`interceptor sees ${seen.join(', ')}`);
      }),
    );
  }
}

@Injectable()
class ProbePipe implements PipeTransform {
  constructor(@Inject(Journal) private readonly journal: Journal) {}

  transform(value: unknown): unknown {
    this.journal.pipeline.push('pipe');
    return value;
  }
}

@Catch(Teapot)
class TeapotFilter implements RpcExceptionFilter<Teapot> {
  catch(): Observable<never> {
    return throwError(() => new CleaveError('out-of-stock', 'the filter made it so', { tea: 0 }));
  }
}

@Controller()
@UseGuards(ProbeGuard)
@UseInterceptors(ProbeInterceptor)
@UsePipes(ProbePipe)
@UseFilters(TeapotFilter)
class ProbeMessages {
  constructor(@Inject(Journal) private readonly journal: Journal) {}

  @Answers(probeContract, 'echo')
  async echo(request: ProbeValues): Promise<ProbeValues> {
    this.journal.carriedOut.push(request.text);
    return request;
  }

  @Answers(probeContract, 'ping')
  async ping(): Promise<undefined> {
    return undefined;
  }

  @Answers(probeContract, 'refuse')
  async refuse({ how }: { how: string }): Promise<{ fine: true }> {
    const extensions = {
      at: new Date(0),
      left_out: undefined,
      none: null,
      products: [{ product_id: 'a', available: 2 }],
    };
    if (how === 'listed') throw new CleaveError('out-of-stock', 'only 2 are left', extensions);
    if (how === 'unlisted') throw new CleaveError('order-not-found', 'secret detail');
    if (how === 'unavailable') throw new CleaveError('unavailable', 'a neighbour is away');
    if (how === 'teapot') throw new Teapot();
    if (how === 'crash') throw new Error('secret: password=hunter2');
    return { fine: 'no' } as unknown as { fine: true };
  }

  @Answers(probeContract, 'metadata')
  async metadata(_request: object, metadata: MessageMetadata) {
    const { deadlineAt, tenant, idempotencyKey = null, traceparent = null } = metadata;
    return { deadline_at: deadlineAt, tenant, key: idempotencyKey, trace: traceparent };
  }

  @Answers(probeContract, 'wait')
  async wait({ id }: { id: string }): Promise<string> {
    await this.journal.pass(id);
    this.journal.carriedOut.push(id);
    return id;
  }

  @Answers(probeContract, 'waitOnce')
  waitOnce(request: { id: string }): Promise<string> {
    return this.wait(request);
  }

  @Answers(probeContract, 'once')
  async once({ id }: { id: string }): Promise<{ by: string }> {
    this.journal.carriedOut.push(id);
    await new Promise(setImmediate);
    return { by: this.journal.instance };
  }

  @Answers(probeContract, 'work')
  async work({ id, forMs, length }: Work): Promise<z.output<typeof worked.reply>> {
    this.journal.onArrival(id);
    if (forMs > 0) await sleep(forMs);
    if (length < 0) throw new CleaveError('out-of-stock', `refused ${id}`);
    return { id, by: this.journal.instance, text: 'x'.repeat(length) };
  }

  @Answers(probeContract, 'workOnce')
  workOnce(request: Work): ReturnType<ProbeMessages['work']> {
    return this.work(request);
  }

  @Answers(probeContract, 'fill')
  async fill({ length }: { length: number }): Promise<string> {
    return 'é'.repeat(length);
  }

  @Answers(probeContract, 'flood')
  async flood(text: string): Promise<string> {
    this.journal.carriedOut.push('flood');
    return text;
  }

  @Answers(probeContract, 'torrent')
  async torrent(text: string): Promise<string> {
    this.journal.carriedOut.push('torrent');
    return text;
  }
}

@Module({})
class ProbeModule {
  static with(journal: Journal, secret: string | undefined): DynamicModule {
    return {
      module: ProbeModule,
      imports: [MessagingModule.forRoot({ secrets: secret === undefined ? undefined : new ServiceSecrets([secret]) })],
      controllers: [ProbeMessages],
      providers: [{ provide: Journal, useValue: journal }],
    };
  }
}

/** The errors that the applications of this test file have logged, with stacks. */
export const loggedErrors: string[] = [];
export const loggedWarnings: string[] = [];

const logger: LoggerService = {
  log: () => undefined,
  warn: (message: unknown) => void loggedWarnings.push(String(message)),
  error: (...parts: unknown[]) => {
    loggedErrors.push(parts.map((part) => (part instanceof Error ? part.stack : String(part))).join(' '));
  },
};

export interface Instance {
  app: INestApplication;
  journal: Journal;
  messenger: Messenger;
  /** For each broker in use, whether it is reached. */
  brokers: ReadonlyMap<string, () => boolean>;
  close(): Promise<void>;
}

/** Instances that listen over TCP on this machine. */
export const tcpAt = (...ports: number[]): Address => ({
  scheme: 'tcp',
  endpoints: ports.map((port) => ({ host: '127.0.0.1', port })),
});

/** One application with the probe module, listening at the addresses; it expects `neighbours` in-process. */
export async function startInstance(
  listen: readonly Address[],
  name = 'one',
  neighbours: readonly Contract[] = [],
  secret?: string,
  canServe?: () => Promise<boolean>,
): Promise<Instance> {
  const journal = new Journal(name);
  const app = await NestFactory.create(ProbeModule.with(journal, secret), new FastifyAdapter(), {
    logger,
    abortOnError: false,
  });
  for (const neighbour of neighbours) app.get(Messenger).clientFor(neighbour, { scheme: 'in-process' });
  let brokers: Instance['brokers'];
  try {
    brokers = await listenForMessages(app, listen, canServe);
  } catch (error) {
    await app.close();
    throw error;
  }
  let closing: Promise<void> | undefined;
  const close = () => (closing ??= app.close());
  return { app, journal, messenger: app.get(Messenger), brokers, close };
}

export interface InstanceProcess {
  /** Resolves once such a request has arrived there, which is never answered. */
  hasGot(isSuch: (id: string) => boolean): Promise<string>;
  /** Suspends (SIGSTOP) or resumes (SIGCONT) the process. */
  pause(signal: 'SIGSTOP' | 'SIGCONT'): void;
  /** Stops it gracefully. */
  close(): Promise<void>;
  kill(): Promise<void>;
}

/**
 * An instance in a process of its own, which can be killed. It runs the compiled code.
 *
 * @param name the name of the instance
 * @param record a file to which it adds the id of each arriving request, on a line of its own, before the work begins
 */
export async function startProcess(listen: Address, name = 'process', record = ''): Promise<InstanceProcess> {
  const compiled = new URL('../../../dist/libs/messaging/test/probe-process.js', import.meta.url);
  const child = fork(compiled, [JSON.stringify(listen), name, record]);
  const ended = once(child, 'exit');
  const killWithUs = () => child.kill('SIGKILL');
  process.once('exit', killWithUs);
  const end = async (how: () => unknown) => {
    process.off('exit', killWithUs);
    how();
    await ended;
  };
  const kill = () => end(() => child.kill('SIGKILL'));
  const close = () => end(() => child.send('close'));
  const heard = new Promise<void>((resolve, reject) => {
    child.once('message', () => resolve());
    void ended.then(() => reject(new Error('the instance has ended before it listened')));
  });
  await heard;
  const hasGot: InstanceProcess['hasGot'] = (isSuch) =>
    new Promise((resolve) => {
      const hear = (id: unknown) => {
        if (!isSuch(String(id))) return;
        child.off('message', hear);
        resolve(String(id));
      };
      child.on('message', hear);
    });
  return { hasGot, pause: (signal) => child.kill(signal), close, kill };
}
