import { once } from 'node:events';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import {
  Body,
  Controller,
  Delete,
  ForbiddenException,
  Get,
  Module,
  Param,
  Post,
  Put,
  Query,
  Res,
  StreamableFile,
  type LoggerService,
} from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { CleaveError, idText, moment, pageOf, placeOrderRequest } from '#contracts';
import {
  Cursors,
  Endpoint as RestEndpoint,
  IdempotencyKey,
  IfMatch,
  createRestApp,
  eventStream,
  etagOf,
  mountDocs,
  openApiDocument,
  pageLimit,
  valid,
  type RestAppOptions,
} from '#rest';
import { currentTrace } from '#telemetry';

/** Called directly where that is possible, so that both ways can be compared. */
const Endpoint: typeof RestEndpoint = (options) => RestEndpoint({ ...options, isCalledDirectly: true });

const thingRequest = z
  .strictObject({ name: z.string().min(1), size: z.int().min(1).optional(), data: z.unknown().optional() })
  .meta({ id: 'ThingRequest', examples: [{ name: 'a box', size: 3 }] });

const thing = z
  .object({ name: z.string(), size: z.int(), made_at: moment, note: z.string().nullable() })
  .meta({ id: 'Thing', examples: [{ name: 'a box', size: 3, made_at: '2026-01-02T03:04:05.678Z', note: null }] });

const thingPage = pageOf(thing).meta({ id: 'ThingPage' });
const thingQuery = z.strictObject({
  colour: z.enum(['red', 'blue']).optional().meta({ description: 'Only those of this colour.' }),
  limit: z.string().optional(),
  cursor: z.string().optional(),
  maker: idText.meta({ examples: ['m-1'] }),
});

const wholeStory = new CleaveError('out-of-stock', 'There are 2 left.', { shortages: [{ product_id: 'mug' }] });

const cursors = new Cursors('a secret of more than sixteen bytes');
const position = z.object({ after: z.int() });

/** The names of the things that were made or deleted. */
export const changed: string[] = [];

/** Blocks `POST /things/slow` until a test releases it. */
export const slow = { entered: Promise.withResolvers<void>(), release: Promise.withResolvers<void>() };

@ApiTags('things')
@Controller('things')
class ThingsController {
  @Post()
  @Endpoint({
    scope: 'open',
    summary: 'Make a thing',
    replies: {
      201: { schema: thing, description: 'The thing', headers: { Location: 'its address', ETag: 'its version' } },
    },
    errors: ['out-of-stock', 'illegal-transition'],
    idempotencyKey: 'optional',
  })
  makeThing(
    @Body(valid(thingRequest)) { name, size }: z.output<typeof thingRequest>,
    @IdempotencyKey() key: string | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): z.output<typeof thing> & { secret: string } {
    changed.push(name);
    reply.header('Location', `/things/${name}`).header('ETag', etagOf(1));
    return { name, size: size ?? 1, made_at: new Date(0), note: key ?? null, secret: 'not in the schema' };
  }

  @Get()
  @Endpoint({
    scope: 'open',
    summary: 'List things',
    replies: { 200: { schema: thingPage, description: 'A page' } },
    errors: ['invalid-cursor'],
  })
  listThings(@Query(valid(thingQuery)) query: z.output<typeof thingQuery>): z.output<typeof thingPage> {
    const after = cursors.read(query.cursor, position)?.after ?? 0;
    const size = pageLimit(query.limit);
    return {
      data: [{ name: query.maker, size, made_at: new Date(after), note: null }],
      next_cursor: cursors.write({ after: after + size }),
    };
  }

  @Get(':id')
  @Endpoint({
    scope: 'open',
    summary: 'Read a thing',
    replies: { 200: { schema: thing, description: 'It' } },
    errors: ['not-found'],
  })
  readThing(@Param('id', valid(idText)) id: string): z.output<typeof thing> {
    return { name: id, size: id.length, made_at: new Date(0), note: null };
  }

  @Put(':id')
  @Endpoint({
    scope: 'open',
    summary: 'Change a thing',
    replies: { 200: { schema: thing, description: 'Changed' }, 201: { schema: thing, description: 'Made' } },
    errors: ['precondition-failed'],
    idempotencyKey: 'required',
  })
  putThing(
    @Param('id', valid(idText)) id: string,
    @Body(valid(thingRequest)) body: z.output<typeof thingRequest>,
    @IdempotencyKey({ required: true }) key: string,
    @IfMatch() versions: readonly number[] | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): z.output<typeof thing> {
    if (versions === undefined) reply.code(201);
    return { name: id, size: Number(versions?.join('') ?? 0), made_at: new Date(0), note: `${body.name} ${key}` };
  }

  @Delete(':id')
  @Endpoint({ scope: 'open', summary: 'Forget a thing', replies: { 204: { description: 'Forgotten' } }, errors: [] })
  deleteThing(@Param('id', valid(idText)) id: string): void {
    changed.push(id);
  }

  @Post(':id/close')
  @Endpoint({
    scope: 'open',
    summary: 'Close a thing; the body may be left out',
    replies: { 200: { schema: z.object({ reason: z.string().nullable() }), description: 'Closed' } },
    errors: [],
  })
  closeThing(
    @Param('id', valid(idText)) _id: string,
    @Body(valid(z.strictObject({ reason: z.string().optional() }))) { reason }: { reason?: string },
  ): { reason: string | null } {
    return { reason: reason ?? null };
  }
}

const endless = (): Readable => {
  const events = new Readable({ read: () => undefined });
  events.push('data: 1\n\n');
  return events;
};

@Controller('trials')
class TrialsController {
  @Post('orders')
  @Endpoint({
    scope: 'open',
    operationId: 'tryOrder',
    summary: 'Take both forms of an order',
    replies: { 200: { schema: z.object({ ok: z.boolean() }), description: 'It is valid' } },
    errors: [],
  })
  order(@Body(valid(placeOrderRequest)) _order: z.output<typeof placeOrderRequest>): { ok: boolean } {
    return { ok: true };
  }

  @Post('slow')
  async waits(): Promise<{ done: boolean }> {
    slow.entered.resolve();
    await slow.release.promise;
    return { done: true };
  }

  @Post('held')
  @Endpoint({
    scope: 'open',
    summary: 'Wait',
    replies: { 201: { schema: z.object({ done: z.boolean() }), description: 'Done' } },
    errors: [],
  })
  held(): Promise<{ done: boolean }> {
    return this.waits();
  }

  @Get('watched')
  @Endpoint({
    scope: 'open',
    summary: 'Watch',
    replies: { 200: { schema: z.object({ fine: z.boolean() }), description: 'It does' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  watched(): { fine: boolean } {
    return { fine: true };
  }

  @Get('events')
  @Endpoint({
    scope: 'open',
    summary: 'Follow what happens',
    replies: { 200: { schema: thing, description: 'It', streamedAs: eventStream } },
    errors: [],
  })
  events(): StreamableFile {
    return new StreamableFile(endless(), { type: eventStream });
  }

  @Get('undeclared-events')
  undeclaredEvents(): StreamableFile {
    return this.events();
  }

  @Get('trace')
  trace(): { trace: string | null } {
    return { trace: currentTrace() ?? null };
  }

  @Post('trace')
  async traceLater(@Body() body: unknown): Promise<unknown> {
    await setImmediate();
    return { body, ...this.trace() };
  }

  @Get('refuses')
  refuses(): never {
    throw wholeStory;
  }

  @Get('unavailable')
  unavailable(): never {
    throw new CleaveError(
      'unavailable',
      'The cache does not answer.',
      {},
      { cause: new Error('ECONNREFUSED 10.0.0.7') },
    );
  }

  @Get('too-late')
  tooLate(): never {
    throw new CleaveError('deadline-exceeded', 'The order was not placed in time.');
  }

  @Get('breaks')
  breaks(): never {
    throw new Error('the password is hunter2', { cause: new Error('what lay behind it') });
  }

  @Get('breaks-oddly')
  breaksOddly(): never {
    // oxlint-disable-next-line only-throw-error
    throw null;
  }

  @Get('forbids')
  forbids(): never {
    throw new ForbiddenException('Not for you.');
  }

  @Get('lies')
  @Endpoint({ scope: 'open', summary: 'Lie', replies: { 200: { schema: thing, description: 'It' } }, errors: [] })
  lies(): unknown {
    return { name: 'a box', size: 'large', made_at: new Date(0), note: null };
  }

  @Get('strays')
  @Endpoint({ scope: 'open', summary: 'Stray', replies: { 200: { schema: thing, description: 'It' } }, errors: [] })
  strays(@Res({ passthrough: true }) reply: FastifyReply): unknown {
    reply.code(202);
    return {};
  }

  @Get('misses')
  @Endpoint({
    scope: 'open',
    summary: 'Miss',
    replies: {
      200: { schema: z.object({ value: z.unknown() }), description: 'A value' },
      404: { schema: z.object({ error: z.literal('key not found') }), description: 'No value' },
    },
    errors: [],
  })
  misses(@Res({ passthrough: true }) reply: FastifyReply): unknown {
    reply.code(404);
    return { error: 'key not found' };
  }

  @Get('unchanged')
  @Endpoint({
    scope: 'open',
    summary: 'Ask for what one has',
    replies: { 200: { schema: thing, description: 'It' }, 304: { description: 'It is unchanged' } },
    errors: [],
  })
  unchanged(@Res({ passthrough: true }) reply: FastifyReply): void {
    reply.code(304);
  }
}

@Module({ controllers: [ThingsController, TrialsController] })
export class ModuleUnderTest {}

export interface AppUnderTest {
  app: NestFastifyApplication;
  url: string;
  port: number;
  /** Everything that was logged, one entry each. */
  log: string[];
}

export const logInto = (log: string[]): LoggerService => {
  const write = (...parts: unknown[]): void => void log.push(parts.map(String).join(' '));
  return { log: write, warn: write, error: write };
};

export const startApp = async (options: RestAppOptions = {}): Promise<AppUnderTest> => {
  const log: string[] = [];
  const app = await createRestApp(ModuleUnderTest, { logger: logInto(log), ...options });
  mountDocs(app, documentOf(app));
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as { port: number };
  return { app, port, url: `http://127.0.0.1:${port}`, log };
};

export const documentOf = (app: NestFastifyApplication) =>
  openApiDocument(app, {
    title: 'Things',
    description: 'An API to test with',
    tags: [{ name: 'things' }, { name: 'problems' }],
  });

/** Sends raw bytes and returns everything the server answers until it closes the connection. */
export const raw = async (port: number, ...chunks: (string | Buffer)[]): Promise<string> => {
  const socket = connect(port, '127.0.0.1');
  let answer = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => void (answer += chunk));
  // A server that refuses a body may close the connection before all of it was sent.
  socket.on('error', () => socket.destroy());
  await once(socket, 'connect');
  for (const chunk of chunks) socket.write(chunk);
  await once(socket, 'close');
  return answer;
};

/** Stops the process for a while, as a busy machine does: timers become due, and what arrives is not read. */
export const standStill = (forMs: number): void =>
  void Atomics.wait(new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)), 0, 0, forMs);
