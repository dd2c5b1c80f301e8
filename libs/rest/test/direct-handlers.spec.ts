import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  Catch,
  Controller,
  Get,
  Header,
  Injectable,
  Module,
  Param,
  ParseIntPipe,
  Post,
  Res,
  Scope,
  StreamableFile,
  UseFilters,
  UseGuards,
  UseInterceptors,
  UsePipes,
  createParamDecorator,
  type ArgumentsHost,
  type CanActivate,
  type ExceptionFilter,
  type NestInterceptor,
  type PipeTransform,
  type Type,
} from '@nestjs/common';
import { APP_GUARD, APP_INTERCEPTOR } from '@nestjs/core';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyReply } from 'fastify';
import { map } from 'rxjs';
import { z } from 'zod';
import { CleaveError, idText } from '#contracts';
import { Endpoint, createRestApp, eventStream, valid } from '#rest';
import { ModuleUnderTest, logInto } from './app-under-test.js';

const said = z.object({ said: z.string() });
const say = (what: string): z.output<typeof said> => ({ said: what });
const endpoint = (name: string, isCalledDirectly = true) =>
  Endpoint({
    ...{ scope: 'open', operationId: name, summary: name, errors: [], isCalledDirectly },
    replies: { 200: { schema: said, description: 'It' } },
  });

/** Whether Nest's own pipeline is on the stack. */
const isCalledByNest = (): boolean => String(new Error().stack).includes('router-execution-context');
const whoCalls = (): z.output<typeof said> => say(isCalledByNest() ? 'Nest' : 'Fastify');

const refusing: CanActivate = { canActivate: () => false };
const shouting: NestInterceptor = {
  intercept: (_context, next) => next.handle().pipe(map((it) => say((it as z.output<typeof said>).said.toUpperCase()))),
};
const replacing: PipeTransform = { transform: () => 'replaced' };
@Catch()
class Teapot implements ExceptionFilter {
  catch(_error: unknown, host: ArgumentsHost): void {
    host.switchToHttp().getResponse<FastifyReply>().code(418).send(say('teapot'));
  }
}
const Late = createParamDecorator(() => Promise.resolve('late'));
const Rejecting = createParamDecorator(() => Promise.reject(new CleaveError('invalid-request', 'too late')));
const Failing = createParamDecorator((_, context) => {
  throw new CleaveError('invalid-request', `from the decorator of ${context.getHandler().name}`);
});

@Controller('calls')
class CallsController {
  @Get('plain')
  @endpoint('plain')
  plain(): z.output<typeof said> {
    return whoCalls();
  }

  @Get('usual')
  @endpoint('usual', false)
  usual(): z.output<typeof said> {
    return whoCalls();
  }

  @Get('two/:one/:other')
  @endpoint('two')
  two(@Param('one') one: string, @Param('other') other: string): z.output<typeof said> {
    return say(isCalledByNest() ? one + other : 'called directly');
  }

  @Get('guarded')
  @endpoint('guarded')
  @UseGuards(refusing)
  guarded(): z.output<typeof said> {
    return say('admitted');
  }

  @Get('intercepted')
  @endpoint('intercepted')
  @UseInterceptors(shouting)
  intercepted(): z.output<typeof said> {
    return say('quiet');
  }

  @Get('piped/:id')
  @endpoint('piped')
  @UsePipes(replacing)
  piped(@Param('id') id: string): z.output<typeof said> {
    return say(id);
  }

  @Get('parsed/:id')
  @endpoint('parsed')
  parsed(@Param('id', ParseIntPipe) id: number): z.output<typeof said> {
    return say(typeof id);
  }

  @Get('filtered')
  @endpoint('filtered')
  @UseFilters(Teapot)
  filtered(): never {
    throw new Error('a fault');
  }

  @Get('with-header')
  @endpoint('withHeader')
  @Header('X-Said', 'yes')
  withHeader(): z.output<typeof said> {
    return say('with a header');
  }

  @Get('answers-itself')
  @endpoint('answersItself')
  answersItself(@Res() reply: FastifyReply): void {
    void reply.code(202).send(say('itself'));
  }

  @Get('streams')
  @Endpoint({
    ...{ scope: 'open', operationId: 'streams', summary: 'Stream', errors: [], isCalledDirectly: true },
    replies: { 200: { schema: said, description: 'It', streamedAs: eventStream } },
  })
  streams(): StreamableFile {
    return new StreamableFile(Buffer.from('data: 1\n\n'), { type: eventStream });
  }

  @Get('late')
  @endpoint('late')
  late(@Late() what: string): z.output<typeof said> {
    return say(what);
  }

  @Get('later')
  @endpoint('later')
  async later(): Promise<z.output<typeof said>> {
    await new Promise(setImmediate);
    return say('later');
  }

  @Get('rejects')
  @endpoint('rejects')
  async rejects(): Promise<never> {
    await new Promise(setImmediate);
    throw new CleaveError('out-of-stock', 'There is none.');
  }

  @Get('unwritable')
  @endpoint('unwritable')
  async unwritable(): Promise<never> {
    await new Promise(setImmediate);
    throw new CleaveError('out-of-stock', 'There is none.', { left: 0n });
  }

  @Post('two-faults/:id')
  @endpoint('twoFaults')
  twoFaults(
    @Rejecting() _late: unknown,
    @Failing() _nothing: unknown,
    @Param('id', valid(idText)) id: string,
  ): z.output<typeof said> {
    return say(id);
  }
}

@Injectable({ scope: Scope.REQUEST })
class OfOneRequest {
  readonly id = Math.random().toString();
}

@Controller('each')
class EachController {
  constructor(private readonly it: OfOneRequest) {}

  @Get()
  @endpoint('each')
  each(): z.output<typeof said> {
    return say(this.it.id);
  }
}

@Controller('base')
class BaseController {
  @Get()
  @endpoint('inherited')
  inherited(): z.output<typeof said> {
    return whoCalls();
  }
}

@Controller('heir')
@UseGuards(refusing)
class HeirController extends BaseController {}

@Module({
  imports: [ModuleUnderTest],
  controllers: [CallsController, EachController, BaseController, HeirController],
  providers: [OfOneRequest],
})
class CallsModule {}

interface Running {
  app: NestFastifyApplication;
  url: string;
  log: string[];
}

const start = async (root: Type, providers: { provide: string; useValue: unknown }[] = []): Promise<Running> => {
  const log: string[] = [];
  const app = await createRestApp({ module: class {}, imports: [root], providers }, { logger: logInto(log) });
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as { port: number };
  return { app, url: `http://127.0.0.1:${port}`, log };
};

let direct: Running;
/** The same, with an interceptor that does nothing, so that Nest calls each handler. */
let byNest: Running;
let intercepted = 0;

beforeAll(async () => {
  const counting: NestInterceptor = {
    intercept: (_context, next) => {
      intercepted += 1;
      return next.handle();
    },
  };
  direct = await start(CallsModule);
  byNest = await start(CallsModule, [{ provide: APP_INTERCEPTOR, useValue: counting }]);
});
afterAll(() => Promise.all([direct.app.close(), byNest.app.close()]));

const saidBy = async ({ url }: Running, path: string, init?: RequestInit): Promise<[number, unknown]> => {
  const answer = await fetch(url + path, init);
  return [answer.status, ((await answer.json()) as { said?: string }).said];
};

const refusalBy = async ({ url }: Running, path: string): Promise<unknown> =>
  ((await (await fetch(url + path)).json()) as { detail?: string }).detail;

describe('the handler of an @Endpoint', () => {
  it('is called by Fastify if the endpoint says so, and by Nest if it does not or the app has an interceptor', async () => {
    expect(await saidBy(direct, '/calls/plain')).toEqual([200, 'Fastify']);
    expect(await saidBy(direct, '/calls/usual')).toEqual([200, 'Nest']);
    const before = intercepted;
    expect(await saidBy(byNest, '/calls/plain')).toEqual([200, 'Nest']);
    expect(intercepted).toBe(before + 1);
  });

  it('is called by Nest if the app has a guard', async () => {
    const guarded = await start(CallsModule, [{ provide: APP_GUARD, useValue: refusing }]);
    expect(await refusalBy(guarded, '/calls/plain')).toBe('Forbidden resource');
    await guarded.app.close();
  });

  it('gets what only Nest does for it', async () => {
    expect(await refusalBy(direct, '/calls/guarded')).toBe('Forbidden resource');
    expect(await saidBy(direct, '/calls/intercepted')).toEqual([200, 'QUIET']);
    expect(await saidBy(direct, '/calls/piped/1')).toEqual([200, 'replaced']);
    expect(await saidBy(direct, '/calls/parsed/1')).toEqual([200, 'number']);
    expect(await saidBy(direct, '/calls/filtered')).toEqual([418, 'teapot']);
    expect((await fetch(`${direct.url}/calls/with-header`)).headers.get('x-said')).toBe('yes');
    expect(await saidBy(direct, '/calls/answers-itself')).toEqual([202, 'itself']);
    expect(await (await fetch(`${direct.url}/calls/streams`)).text()).toBe('data: 1\n\n');
    expect(await saidBy(direct, '/calls/two/1/2')).toEqual([200, '12']);
    expect(await refusalBy(direct, '/heir')).toBe('Forbidden resource');
    expect(await saidBy(direct, '/base')).toEqual([200, 'Nest']);
  });

  it('is called on the instance of its request, if there is one for each', async () => {
    const [one, other] = [await saidBy(direct, '/each'), await saidBy(direct, '/each')];
    expect(one[0]).toBe(200);
    expect(one).not.toEqual(other);
  });
});

describe('a direct call and one by Nest', () => {
  const json = { 'content-type': 'application/json' };
  const make = (body: string, headers: Record<string, string> = {}): RequestInit => ({
    ...{ method: 'POST', body },
    headers: { ...json, ...headers },
  });
  const put = (body: string, headers: Record<string, string> = {}): RequestInit => ({
    ...make(body, headers),
    method: 'PUT',
  });

  /** What a client sees, except for what differs between two requests. */
  const seen = async (it: Running, path: string, init?: RequestInit) => {
    const answer = await fetch(it.url + path, { redirect: 'manual', ...init });
    const headers = Object.fromEntries(answer.headers);
    expect(headers['x-request-id']).toBeDefined();
    const changing = new Set(['date', 'x-request-id']);
    return {
      status: answer.status,
      headers: Object.fromEntries(Object.entries(headers).filter(([name]) => !changing.has(name))),
      body: await answer.text(),
    };
  };

  const requests: [string, RequestInit?][] = [
    ['/things', make('{"name":"box"}')],
    ['/things', make('{"name":"box"}', { 'idempotency-key': '"k"' })],
    ['/things', make('{"name":"box"}', { 'idempotency-key': '"' })],
    // Both are wrong: the error of the decorator is reported.
    ['/things', make('{"nam":"box"}', { 'idempotency-key': '"' })],
    ['/things', make('{"nam":"box","size":0}')],
    ['/things', make('{"name"')],
    ['/things', make('')],
    ['/things', { method: 'POST' }],
    ['/things', { method: 'POST', headers: json }],
    ['/things', { method: 'POST', body: 'name=box', headers: { 'content-type': 'text/plain' } }],
    ['/things?a=1', make('{"name":"box"}')],
    ['/things?maker=1'],
    ['/things?maker=1&colour=red&limit=3'],
    ['/things?maker=1&maker=2'],
    ['/things?colour=green'],
    ['/things?maker=1&cursor=x'],
    ['/things?maker=%'],
    ['/things?maker=1', { method: 'HEAD' }],
    ['/things?colour=green', { method: 'HEAD' }],
    ['/things/1'],
    ['/things/'],
    [`/things/${'x'.repeat(129)}`],
    ['/things/%20'],
    ['/things/1', { method: 'HEAD' }],
    ['/things/1', { method: 'DELETE' }],
    ['/things/1', { method: 'PATCH' }],
    ['/things/1', put('{"name":"box"}')],
    ['/things/1', put('{"name":"box"}', { 'idempotency-key': 'k' })],
    ['/things/1', put('{"name":"box"}', { 'idempotency-key': 'k', 'if-match': '"v3"' })],
    ['/things/1', put('{}', { 'idempotency-key': 'k', 'if-match': 'v3' })],
    ['/things/1', put('{}', { 'if-match': 'v3' })],
    [`/things/${'x'.repeat(129)}`, put('{}', { 'idempotency-key': 'k' })],
    ['/things/1/close', { method: 'POST' }],
    ['/things//close', { method: 'POST' }],
    ['/things/1/close', make('{"reason":1}')],
    ...['lies', 'strays', 'misses', 'unchanged', 'watched', 'forbids', 'refuses'].map((it): [string] => [
      `/trials/${it}`,
    ]),
    ['/trials/unchanged', { method: 'HEAD' }],
    ['/trials/misses', { method: 'HEAD' }],
    ['/problems/out-of-stock'],
    ['/problems/nothing'],
    ['/nothing'],
    ['/calls/late'],
    ['/calls/later'],
    ['/calls/later', { method: 'HEAD' }],
    ['/calls/rejects'],
    ['/calls/unwritable'],
    [`/calls/two-faults/${'x'.repeat(129)}`, { method: 'POST' }],
  ];

  it.each(requests.map(([path, init = {}]) => [path, init] as const))(
    'answer the same to %s %o',
    async (path, init) => {
      expect(await seen(direct, path, init)).toEqual(await seen(byNest, path, init));
    },
  );

  it('log the same', async () => {
    const logged = async (it: Running): Promise<string[]> => {
      const from = it.log.length;
      await fetch(`${it.url}/trials/lies`);
      return it.log.slice(from).map((line) => line.split('\n', 1)[0]!);
    };
    expect(await logged(direct)).toEqual(await logged(byNest));
  });
});
